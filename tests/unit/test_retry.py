"""The phi ladder, to the second (spec vaultmesh section 8)."""

import pytest

from vmsh_scheduler.domain.retry import ErrorClass, FlatRetry, PhiBackoff, jitter

LADDER = {
    1: (8, 16, 4),
    2: (13, 26, 7),
    3: (21, 42, 11),
    4: (34, 69, 17),
    5: (55, 111, 28),
    6: (90, 179, 45),
    7: (145, 290, 73),
}


@pytest.mark.parametrize(("level", "seconds"), LADDER.items())
def test_ladder(level: int, seconds: tuple[int, int, int]) -> None:
    network, auth, validation = seconds
    backoff = PhiBackoff()
    assert backoff.delay(level, level, ErrorClass.NETWORK) == network * 1000
    assert backoff.delay(level, level, ErrorClass.UNKNOWN) == network * 1000
    assert backoff.delay(level, level, ErrorClass.AUTH) == auth * 1000
    assert backoff.delay(level, level, ErrorClass.VALIDATION) == validation * 1000


def test_the_cap_is_on_the_level_and_retries_never_stop() -> None:
    backoff = PhiBackoff()
    assert backoff.delay(1000, 1000, ErrorClass.NETWORK) == 145_000
    assert backoff.longest() == 290_000


def test_fractions_of_a_second_are_not_rounded_away() -> None:
    assert PhiBackoff(base_s=0.1).delay(1, 1, ErrorClass.NETWORK) == 161


def test_jitter_is_off_stable_and_bounded() -> None:
    assert jitter(PhiBackoff(), "ns/fast/1", 1, 8_000) == 0
    shaky = PhiBackoff(jitter=0.5)
    extras = {jitter(shaky, f"ns/fast/{slot}", 1, 8_000) for slot in range(200)}
    assert all(0 <= extra <= 4_000 for extra in extras)
    assert len(extras) > 100
    assert jitter(shaky, "ns/fast/1", 1, 8_000) == jitter(shaky, "ns/fast/1", 1, 8_000)
    assert shaky.longest() == 435_000


def test_flat() -> None:
    flat = FlatRetry(5_000)
    assert flat.delay(1, 1, ErrorClass.AUTH) == flat.delay(99, 99, ErrorClass.NETWORK) == flat.longest() == 5_000
