"""The fallback chain: which link answers, how old its answer is, and why the ones before it did not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.clock import ManualClock
from levibot.errors import DataError, NotReady, StoreUnavailable, UnknownSymbol
from levibot.resilience.deadline import deadline
from levibot.resilience.fallback import Answered, Fallback, Found, Link
from levibot.resilience.guard import Guard

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def link(name: str, outcome: object) -> Link[str]:
    async def load() -> Found[str] | None:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[return-value]

    return Link(name, load)


def found(value: str, *, age_s: float = 0.0) -> Found[str]:
    return Found(value, NOON - timedelta(seconds=age_s))


def chain(*links: Link[str]) -> Fallback[str]:
    return Fallback(links, ManualClock(NOON))


async def test_the_first_link_answers_with_its_age() -> None:
    answer = await chain(link("database", found("new", age_s=1.5)), link("cache", found("old"))).get()
    assert answer == Answered("new", "database", NOON - timedelta(seconds=1.5), 1.5)
    assert not answer.is_fallback


async def test_each_link_that_gives_nothing_says_why() -> None:
    answer = await chain(
        link("database", StoreUnavailable("It is away.")),
        link("cache", None),
        link("stub", found("zero", age_s=86_400.0)),
    ).get()
    assert (answer.value, answer.link, answer.age_s) == ("zero", "stub", 86_400.0)
    assert answer.problems == ("database: It is away.", "cache: nothing is there.")
    assert answer.is_fallback


async def test_without_any_answer_all_problems_are_told() -> None:
    with pytest.raises(NotReady, match=r"database: It is away\. cache: nothing is there\."):
        await chain(link("database", StoreUnavailable("It is away.")), link("cache", None)).get()


async def test_a_wrong_question_is_answered_by_no_link() -> None:
    with pytest.raises(UnknownSymbol):
        await chain(link("database", UnknownSymbol("DOGE?")), link("stub", found("zero"))).get()


async def test_bad_data_of_one_link_is_not_another_ones() -> None:
    answer = await chain(
        link("database", DataError("A price below zero.")), link("cache", found("old"))
    ).get()
    assert answer.link == "cache"


async def test_an_unforeseen_error_is_not_hidden_by_the_next_link() -> None:
    with pytest.raises(ZeroDivisionError):
        await chain(link("database", ZeroDivisionError()), link("stub", found("zero"))).get()


async def test_an_answer_without_a_time_zone_has_no_age_and_is_passed_over() -> None:
    naive = Found("when?", NOON.replace(tzinfo=None))
    answer = await chain(link("database", naive), link("cache", found("old"))).get()
    assert (answer.link, "without a time zone" in answer.problems[0]) == ("cache", True)


async def test_an_answer_from_the_future_has_no_negative_age() -> None:
    assert (await chain(link("database", found("soon", age_s=-3.0))).get()).age_s == 0.0


async def test_a_link_that_hangs_gives_way_within_the_deadline() -> None:
    guard = Guard("database", timeout_s=60.0, transient=())

    async def hang() -> Found[str] | None:
        return await guard.call(asyncio.Event().wait)  # type: ignore[arg-type]

    with deadline(0.1):
        answer = await Fallback(
            [Link("database", hang), link("cache", found("old"))], ManualClock(NOON)
        ).get()
    assert (answer.link, answer.problems) == (
        "cache",
        ("database: The time for database was up before there was an answer.",),
    )


@given(st.lists(st.sampled_from(["error", "nothing", "value"]), max_size=6))
def test_the_answer_is_that_of_the_first_link_that_has_one(outcomes: list[str]) -> None:
    of = {"error": StoreUnavailable("away"), "nothing": None, "value": found("v")}
    links = [link(str(n), of[outcome]) for n, outcome in enumerate(outcomes)]
    if "value" in outcomes:
        first = outcomes.index("value")
        answer = asyncio.run(chain(*links).get())
        assert (answer.link, len(answer.problems)) == (str(first), first)
    else:
        with pytest.raises(NotReady) as refusal:
            asyncio.run(chain(*links).get())
        assert all(f"{n}:" in refusal.value.message for n in range(len(outcomes)))
