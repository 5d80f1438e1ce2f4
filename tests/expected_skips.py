"""How many tests of `make test` may be skipped, per set of capabilities that a test needs."""

from tests.support.needs import has

SKIPS: dict[tuple[str, ...], int] = {
    ("root",): 5,
    ("another user than root",): 2,
    ("systemd-analyze",): 2,
    ("openssl",): 68,
    ("anvil",): 27,
    ("bitcoind",): 30,
    ("bitcoind", "openssl"): 1,
}


def expected() -> dict[str, int]:
    """Reason of a skip on this machine -> how many tests give it."""
    counts: dict[str, int] = {}
    for needs, count in SKIPS.items():
        if lacking := [need for need in needs if not has(need)]:
            why = "needs " + ", ".join(sorted(lacking))
            counts[why] = counts.get(why, 0) + count
    return counts
