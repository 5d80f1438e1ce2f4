"""Rows C1 to C4 and C10 to C12 at a running daemon: whatever happens to its files, no slot is lost and nothing else
changes."""

import random
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.config_faults import (
    BOMBS,
    LOADED,
    REFUSED_S,
    REJECTED,
    RSS_GROWTH_KB,
    TAKEN_AWAY,
    Watched,
    ask,
    bomb,
    delete,
    generations,
    idle,
    jobs,
    lose_most,
    replace_by_a_directory,
    replace_by_a_link_to_itself,
    rewrite_in_halves,
    storm,
    swap_maps,
    take_away,
    watched,
)
from tests.support.daemon import Document
from tests.support.faults import Cadence
from vmsh_scheduler.errors import ConfigError

SEED = 20261121


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path) as made:
        yield made


def test_c1_a_hundred_half_written_files_are_never_believed(seen: Watched) -> None:
    rewrite_in_halves(seen, 100, random.Random(SEED))
    seen.stop()


def test_c1_what_is_half_written_for_long_is_believed(tmp_path: Path) -> None:
    """The check above would notice: nobody can tell a file that is done from one whose writer sleeps."""
    with watched(tmp_path, LOG_LEVEL="debug") as seen:
        extra = seen.site.work("extra", every="1h")
        seen.site.place.write("config/namespaces.yaml", seen.good(extra))
        seen.daemon.wait_line("config not stable yet")
        seen.daemon.wait_line(LOADED, after=1)
        seen.file.write_text(seen.good())
        assert seen.daemon.wait_line(LOADED, after=2)["removed"] == [extra.job]
        seen.stop()


def test_c2_a_file_that_is_taken_away_costs_no_slot(seen: Watched) -> None:
    for how in (delete, replace_by_a_directory, replace_by_a_link_to_itself):
        assert how in TAKEN_AWAY
        take_away(seen, how)
    seen.stop()


def test_c3_thirty_configmap_swaps_are_never_mixed(tmp_path: Path) -> None:
    assert swap_maps(tmp_path, 30, random.Random(SEED)) >= 2


def test_c3_a_mix_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="a mix"):
        generations({"added": ["g1/fast", "_agents/anon/g2", "healthy/fast"]}, "added")


def test_c4_four_bombs_change_nothing(seen: Watched) -> None:
    """One for each line of defence: depth, aliases, number of problems, size. All twelve: the soak tests."""
    worst = bomb(seen, list(BOMBS)[:4], validated=1)
    assert worst.cpu_s <= REFUSED_S
    assert worst.rss_kb <= RSS_GROWTH_KB
    assert worst.words < 20_000
    seen.stop()


def instant(line: Document) -> datetime:
    return datetime.fromisoformat(line["time"])


def test_c10_losing_most_jobs_at_once_is_doubted_first(seen: Watched) -> None:
    """Believed after two more looks; their states are kept, so that nothing runs again when they are back."""
    many = idle(seen, 4)

    def believed() -> None:
        doubt = seen.daemon.wait_line("trouble", what="config_mass_removal")
        assert (doubt["before"], doubt["after"]) == (5, 1)
        assert set(jobs(seen.site.place)) == {"healthy/fast", *(each.job for each in many)}
        line = seen.daemon.wait_line(LOADED, after=2)
        assert instant(line) - instant(doubt) > timedelta(seconds=0.9)

    lose_most(seen, many, believed)
    seen.stop()


def test_c10_sighup_believes_at_once_and_a_restart_forgets_nothing(seen: Watched) -> None:
    many = idle(seen, 4)
    lose_most(seen, many, lambda: seen.daemon.signal(signal.SIGHUP))
    assert seen.daemon.lines("trouble", what="config_mass_removal") == []
    seen.site.place.write("config/namespaces.yaml", seen.good())
    ask(seen.site.place, "POST", "/reload")
    seen.daemon.stop()
    seen.daemon = seen.site.place.daemon().ready()
    seen.goes_on()
    seen.site.place.write("config/namespaces.yaml", seen.good(*many))
    assert len(seen.daemon.wait_line(LOADED, after=1)["added"]) == 4
    seen.goes_on()
    assert [len(seen.site.starts(each)) for each in many] == [1] * 4
    seen.daemon.stop()


def test_c10_a_doubted_removal_that_is_taken_back_removes_nothing(seen: Watched) -> None:
    many = idle(seen, 5)
    seen.site.place.write("config/namespaces.yaml", seen.good(*many))
    seen.daemon.wait_line(LOADED, after=1)
    seen.site.place.write("config/namespaces.yaml", seen.good())
    seen.daemon.wait_line("trouble", what="config_mass_removal")
    seen.site.place.write("config/namespaces.yaml", seen.good(*many) + "# back again\n")
    seen.daemon.wait_line(LOADED, after=2)
    assert len(jobs(seen.site.place)) == 6
    assert all("removed" not in line for line in seen.daemon.lines(LOADED))
    seen.site.place.write("config/namespaces.yaml", seen.good(*many[:2]))
    assert len(seen.daemon.wait_line(LOADED, after=3)["removed"]) == 3, "half of them is no mass"
    assert len(seen.daemon.lines("trouble")) == 1
    seen.stop()


def test_c11_a_storm_of_valid_files_is_at_most_one_reload_a_second(seen: Watched) -> None:
    texts = [seen.good(), seen.good(*idle(seen, 2))]
    found = storm(seen, texts, 600, 4)
    assert (found.writes, found.reloads > 0) == (600, True)
    assert found.reloads <= found.seconds + 1
    assert seen.daemon.lines(REJECTED) == []
    seen.goes_on()
    seen.stop()


CANARY = "canary-0451"
C12_FILES = (
    f"namespaces: {{ns: {{token: {CANARY}: x}}}}\n",
    f"namespaces:\n  ns:\n    token: '{CANARY}\n",
    f"namespaces: !{CANARY} x\n",
    f"namespaces: *{CANARY}\n",
    f"namespaces: {CANARY}\n",
)
C12_LINES = (
    f"token: {CANARY}",
    f"env: {{TOKEN={CANARY}}}",
    f"pass_env: [TOKEN={CANARY}]",
    f"retry: {{rules: [{{stderr: '(?P={CANARY})', class: auth}}]}}",
    f"probe: {CANARY}",
    f"timeout: {CANARY}",
    f"confirmations: {CANARY}",
    f"catch_up: {CANARY}",
    f"policyOID: {CANARY}",
    f"cwd: '${{A-{CANARY}'",
)


def test_c12_no_output_repeats_a_value_of_a_refused_file(seen: Watched) -> None:
    place = seen.site.place
    said: list[str] = []
    lines = [Cadence(f"n{number}", ("true",), more=(line,)) for number, line in enumerate(C12_LINES)]
    for text in (*C12_FILES, seen.good(*lines)):
        place.write("config/namespaces.yaml", f"{text}# {CANARY}\n")
        with pytest.raises(ConfigError) as refused:
            ask(place, "POST", "/reload")
        said += [str(refused.value), *refused.value.problems]
        said += [str(ask(place, "GET", path)) for path in ("/status", "/health")]
    assert len(refused.value.problems) >= len(C12_LINES)
    assert len(seen.daemon.lines(REJECTED)) == len(C12_FILES) + 1
    for words in (["validate-config"], ["status"], ["doctor"], ["tick"], ["config", "show"]):
        done = place.cli(*words)
        said += [done.out, done.err]
    said += [seen.daemon.get(path).body for path in ("/health", "/health?strict=1", "/metrics")]
    said += [seen.daemon.text(), *(each.read_bytes().decode(errors="replace") for each in kept(place.state.parent))]
    assert [text for text in said if CANARY in text] == []
    assert "namespaces.yaml:" in seen.daemon.text()


def kept(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]


def test_a_reload_leaves_runs_that_are_going_on_alone(seen: Watched) -> None:
    """They are this daemon's own: neither adopted nor lost, and certainly not started again."""
    going = [
        seen.site.work(name, f"crash_exact: {exact}", every="1h", seconds=2)
        for name, exact in (("recorded", "true"), ("piped", "false"))
    ]
    seen.site.place.write("config/namespaces.yaml", seen.good(*going))
    seen.daemon.wait_until(lambda: all(seen.site.starts(each) for each in going), "a run of each")
    seen.daemon.signal(signal.SIGHUP)
    seen.daemon.wait_line(LOADED, after=2)
    more = seen.site.work("more", every="1h")
    seen.site.place.write("config/namespaces.yaml", seen.good(*going, more))
    for cadence in (more, *going):
        seen.daemon.wait_line("anchor success", ns=cadence.name)
    seen.goes_on()
    assert [len(seen.daemon.lines("anchor success", ns=each.name)) for each in going] == [1, 1]
    assert seen.daemon.lines("runs recovered") == []
    seen.stop()
