"""S1, L5 and G4 at the catalogue's figure: a thousand kills of the daemon, in two places at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.kills import COUNTED, Rounds, killed

PLACES = 2
ROUNDS = 500
SEED = 20261121


@pytest.mark.timeout(5400)
def test_s1_l5_g4_a_thousand_kills_lose_and_repeat_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Every place checks its own books: unparseable state, lost, repeated and invented outcomes end its rounds."""
    with ThreadPoolExecutor(PLACES) as pool:
        played = list(pool.map(lambda n: killed(tmp_path / str(n), ROUNDS, SEED + n), range(PLACES)))
    found = {name: sum(rounds.recovered[name] for rounds in played) for name in COUNTED}
    boots = sorted(boot for rounds in played for boot in rounds.boots)
    kills = PLACES * ROUNDS
    record_property("S1", f"{kills:,} kills, {figure(played, found)}; {boot_figure(boots)}")
    record_property("L5", f"{kills:,} kills: {found['adopted']} orphans adopted, no start waited for one")
    record_property(
        "G4", f"{kills:,} kills: {found['adopted']} runs adopted, {found['recovered']} recovered, 0 repeated"
    )
    assert found["unknown"] == 0
    assert found["adopted"] + found["recovered"] >= kills // 4, "the kills hardly ever hit a run"


def figure(played: list[Rounds], found: dict[str, int]) -> str:
    return (
        f"{sum(rounds.runs for rounds in played):,} runs: 0 unparseable, 0 duplicate, 0 lost, 0 false, "
        f"{found['unknown']} unknown; {found['recovered']} recovered, {found['adopted']} adopted, "
        f"{found['never_began']} never began"
    )


def boot_figure(boots: list[float]) -> str:
    """With two daemons at once; planned and recovered, before the first slot."""
    p50, p99 = boots[len(boots) // 2], boots[len(boots) * 99 // 100]
    return f"boot p50 {p50:.2f} s, p99 {p99:.2f} s"
