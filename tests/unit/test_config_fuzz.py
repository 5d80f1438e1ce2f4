"""Whatever the files hold: jobs or a ConfigError whose every line has a place, nothing else."""

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.config import files, wanted
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet

PLACE = re.compile(r"(namespaces|agents)\.yaml:\d+:\d+: ")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["89s", "34*fast", "2*strong", "0s", "local:a", "eip155:1", "btc:x", "hunter2", "", "(", "${X}", "_"]
    ),
    st.text(max_size=8),
)
WORDS = """namespaces cadence fast strong cold target every timeout retry rules exit stderr class seal files splay
    env limits agents agentId userId walletAddress callback command url cycleIntervalMs _x dao:x: x"""
KEYS = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)
CADENCES = st.dictionaries(
    st.sampled_from(["target", "every", "timeout", "splay", "retry", "command", "env", "catch_up"]), VALUES
)
NAMESPACES = st.fixed_dictionaries(
    {"namespaces": st.dictionaries(KEYS, st.fixed_dictionaries({"cadence": st.dictionaries(KEYS, CADENCES)}))}
)
AGENTS = st.fixed_dictionaries({"agents": st.lists(st.dictionaries(KEYS, VALUES), max_size=3)})


@settings(max_examples=150, deadline=None)
@given(VALUES | NAMESPACES, VALUES | AGENTS)
def test_jobs_or_problems_with_a_place(namespaces: Any, agents: Any) -> None:
    reading = files(json.dumps(namespaces), json.dumps(agents))
    found: JobSet | None = None
    refusals: tuple[str, ...] = ()
    try:
        found = compile_files(reading, wanted(), {"X": "1"})
    except ConfigError as error:
        refusals = error.problems
    assert (found is None) is bool(refusals)
    for problem in refusals:
        assert PLACE.match(problem), problem
        assert "hunter2" not in problem
    assert all(job.id == name for name, job in (found.jobs if found else {}).items())
