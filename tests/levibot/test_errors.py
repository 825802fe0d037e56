"""One tree of errors: drawn as it is, each with its code, and the same after a journey between processes."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from levibot import errors
from levibot.cli import _fail
from levibot.errors import LeviBotError, UsageError


def tree(kind: type[LeviBotError] = LeviBotError, depth: int = 0) -> Iterator[tuple[int, type[LeviBotError]]]:
    yield depth, kind
    for child in kind.__subclasses__():
        yield from tree(child, depth + 1)


KINDS = [kind for _, kind in tree() if kind.__module__ == errors.__name__]


def test_every_error_of_the_module_hangs_on_the_tree() -> None:
    defined = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__module__ == errors.__name__
    }
    assert defined == set(KINDS)
    assert len(KINDS) > 10


def test_the_drawing_at_the_top_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^([│├└─ ]*)([A-Z][A-Za-z]+(?:Error)?)(?: {2,}\S.*)?$", line)
        if found and hasattr(errors, found[2]):
            drawn.append((len(found[1]) // 4, found[2]))
    assert drawn == [(depth, kind.__name__) for depth, kind in tree() if kind in KINDS]


def test_every_code_is_the_errors_own() -> None:
    codes = [kind.__dict__.get("code") for kind in KINDS]
    assert None not in codes
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", str(code)) for code in codes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_after_a_journey(kind: type[LeviBotError]) -> None:
    error = kind("It is 5.", hint="Make it 4.")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.message, again.hint, again.code) == ("It is 5.", "Make it 4.", kind.code)
        assert str(again) == "It is 5. Make it 4."


def test_without_a_hint_an_error_is_its_message() -> None:
    assert str(LeviBotError("It is 5.")) == "It is 5."


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_wrong_call_has_exit_code_2(
    kind: type[LeviBotError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _fail(kind("It is 5.", hint="Make it 4."))
    assert ended.value.code == (2 if issubclass(kind, UsageError) else 1)
    assert capsys.readouterr().err == "levibot: It is 5. Make it 4.\n"
