"""Who is in a canary's arm: stable, growing with the share, and as many as it says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from levibot.serving.arms import CANARY, CHAMPION, arm_of

KEYS = st.text(min_size=1, max_size=20)
VERSIONS = st.from_regex(r"v[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)
SHARES = st.floats(0.0, 1.0)


@given(key_id=KEYS, version=VERSIONS, shares=st.tuples(SHARES, SHARES))
def test_a_share_that_grows_lets_none_go(key_id: str, version: str, shares: tuple[float, float]) -> None:
    smaller, larger = sorted(shares)
    if arm_of(key_id, version, smaller) == CANARY:
        assert arm_of(key_id, version, larger) == CANARY
    assert arm_of(key_id, version, 0.0) == CHAMPION
    assert arm_of(key_id, version, 1.0) == CANARY


def test_a_key_keeps_its_arm_in_every_process_and_release() -> None:
    initials = "".join(arm_of(f"key{n}", "v1.2.3", 0.5)[1] for n in range(8))
    assert initials == "aahaahha"


@given(version=VERSIONS, share=SHARES)
def test_the_share_is_kept_within_the_error_of_a_sample(version: str, share: float) -> None:
    n = 2_000
    found = sum(arm_of(f"key-{k}", version, share) == CANARY for k in range(n)) / n
    # Five standard errors: hypothesis looks a hundred times.
    assert abs(found - share) <= 5.0 * (share * (1.0 - share) / n) ** 0.5 + 1.0 / n


def test_another_version_draws_its_callers_anew() -> None:
    keys = [f"key-{n}" for n in range(2_000)]
    first, second = ({k for k in keys if arm_of(k, v, 0.5) == CANARY} for v in ("v1.0.0", "v1.0.1"))
    assert 0.4 < len(first & second) / len(first) < 0.6


@given(version=VERSIONS, share=st.floats(0.0, 1.0, exclude_max=True))
def test_callers_that_nobody_tells_apart_stay_with_the_champion(version: str, share: float) -> None:
    assert arm_of("", version, share) == CHAMPION
    assert arm_of("", version, 1.0) == CANARY
