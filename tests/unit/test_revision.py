"""A job's revision changes with what it does and with nothing else."""

import pytest

from tests.support.config import agent, cadence


@pytest.mark.parametrize(
    "line",
    [
        "timeout: 20s",
        "splay: 10s",
        "reanchor: true",
        "command: [other]",
        "confirmations: 1",
        "env: {A: b}",
        "retry: {max: 6}",
        "retry: {multipliers: {auth: 3}}",
        "retry: {rules: [{exit: 3, class: auth}]}",
        "crash_exact: false",
        "overlap: wait",
        "limits: {open_files: 9}",
    ],
)
def test_a_change_of_behaviour_changes_it(line: str) -> None:
    assert cadence(line).revision != cadence().revision


@pytest.mark.parametrize("line", ["enabled: false", "timeout: 120s", "grace: 10s", "# a comment"])
def test_switching_off_or_spelling_out_a_default_does_not(line: str) -> None:
    assert cadence(line).revision == cadence().revision


def test_a_changed_secret_changes_it_without_being_in_it() -> None:
    one, other = (cadence(f"env: {{TOKEN: {word}}}").revision for word in ("hunter2", "hunter3"))
    assert one != other
    assert len(one) == 16
    int(one, 16)


def test_agents_have_one_too() -> None:
    assert agent().revision == agent("status: PAUSED").revision
    assert agent().revision != agent("cycleIntervalMs: 2000").revision
    assert agent().revision != agent(callback="{url: 'http://x/'}").revision
