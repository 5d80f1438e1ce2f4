"""Files that are nearly right, for Hypothesis: what a person could have written, some of it wrong, in every style."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.support.config import Files, files, wanted
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.yaml_file import Document, parse

CANARY = "hunter2"
PLACE = re.compile(r"(namespaces|agents)\.yaml:\d+:\d+: ")

PIECES = ["a", "b: ", "- ", "\n", "\n  ", "[", "]", "{", "}", ",", "&x ", "*x", "!!int ", "!!str ", "!t ", "'", '"']
PIECES += ["|\n", ">-\n", "<<: ", "? ", ": ", "#", "%", "@", "\t", "1:30", "010", "2024-13-45", "~", "---\n", "...\n"]
PIECES += ["\\x", "\u2028", "\x85", "\ufeff", "\x00", "\U0001f600", "9" * 30]
YAML_LIKE = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
TEXTS = (YAML_LIKE | st.text(max_size=60)).map(lambda text: text.encode("utf-8", "surrogatepass"))
BYTES = TEXTS | st.binary(max_size=60)

WORDS = """namespaces cadence fast strong cold target every timeout retry rules exit stderr class seal files splay
    env limits agents agentId userId walletAddress callback command url cycleIntervalMs _x dao:x: x"""
KEYS = st.sampled_from(WORDS.split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["89s", "34*fast", "2*strong", "0s", "local:a", "eip155:1", "btc:x", CANARY, "", "(", "${X}", "_"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)

NAMES = st.sampled_from(["a", "dao:x", "dao:x:", "fin:clearing", "with blank", "\u00fcber"])
PERIODS = st.builds("{}{}".format, st.integers(1, 300), st.sampled_from("smhdSMHD"))
TARGETS = st.sampled_from(["local:a", "eip155:8453", "btc:mainnet", "rfc3161:tsa"])
LENGTHS = st.builds("{}{}".format, st.integers(1, 999), st.sampled_from(["ms", "s", "m", "h"]))
LETTERS = st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=["Cc", "Zs"], exclude_characters="$")
ARGV = st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=4)
COMMANDS: Mapping[str, st.SearchStrategy[Any]] = {
    "timeout": LENGTHS,
    "grace": LENGTHS,
    "env": st.dictionaries(st.sampled_from(["A", "_b", "C3"]), st.sampled_from(["x", "1:30", "yes", ""])),
    "cwd": st.just("sub"),
    "umask": st.sampled_from(["077", "0022"]),
    "limits": st.fixed_dictionaries({}, optional={"open_files": st.integers(1, 99), "cpu_seconds": st.integers(1, 9)}),
    "outlive": st.booleans(),
}
RETRY = st.fixed_dictionaries(
    {},
    optional={
        "base": LENGTHS,
        "max": st.integers(0, 30),
        "jitter": st.sampled_from([0.0, 0.5, 1]),
        "multipliers": st.dictionaries(st.sampled_from(["network", "auth"]), st.sampled_from([0.5, 1, 2.5])),
        "rules": st.lists(
            st.sampled_from([{"exit": 3, "class": "auth"}, {"stderr": "x+", "class": "network"}]), max_size=2
        ),
    },
)
CADENCE_OPTIONS: Mapping[str, st.SearchStrategy[Any]] = {
    **COMMANDS,
    "command": ARGV,
    "confirmations": st.integers(0, 50),
    "policyOID": st.sampled_from(["", "1.2.3"]),
    "catch_up": st.sampled_from(["once", "skip", "all"]),
    "overlap": st.sampled_from(["skip", "wait", "allow"]),
    "on_unknown": st.sampled_from(["retry", "hold"]),
    "reanchor": st.booleans(),
    "enabled": st.booleans(),
    "retry": RETRY,
}


def _cadence(period: "st.SearchStrategy[str]") -> "st.SearchStrategy[dict[str, Any]]":
    return st.fixed_dictionaries({"target": TARGETS, "every": period}, optional=dict(CADENCE_OPTIONS))


LEVELS = st.fixed_dictionaries(
    {"fast": _cadence(PERIODS)},
    optional={
        "strong": _cadence(st.builds("{}*fast".format, st.integers(1, 6))),
        "cold": _cadence(PERIODS),
    },
)
SPACES = st.fixed_dictionaries({"cadence": LEVELS}, optional={"description": st.text(max_size=9).map(ascii)})
GOOD_NAMESPACES = st.fixed_dictionaries({"namespaces": st.dictionaries(NAMES, SPACES, max_size=3)})
CALLBACKS = st.fixed_dictionaries({"command": ARGV}, optional=dict(COMMANDS))
AGENT_SPECS = st.fixed_dictionaries(
    {"agentId": st.sampled_from("pqrst"), "walletAddress": st.just("kaspa:qq0"), "callback": CALLBACKS},
    optional={"cycleIntervalMs": st.integers(1, 10**9), "status": st.sampled_from(["RUNNING", "PAUSED"])},
)
GOOD_AGENTS = st.fixed_dictionaries({"agents": st.lists(AGENT_SPECS, max_size=3, unique_by=lambda a: a["agentId"])})
LOOSE_CADENCES = st.dictionaries(
    st.sampled_from(["target", "every", "timeout", "splay", "retry", "command", "env", "catch_up"]), VALUES
)
LOOSE_NAMESPACES = st.fixed_dictionaries(
    {"namespaces": st.dictionaries(KEYS, st.fixed_dictionaries({"cadence": st.dictionaries(KEYS, LOOSE_CADENCES)}))}
)
LOOSE_AGENTS = st.fixed_dictionaries({"agents": st.lists(st.dictionaries(KEYS, VALUES), max_size=3)})


@st.composite
def written(draw: st.DrawFn, data: st.SearchStrategy[Any]) -> str:
    """As block or flow, quoted or not, by one of the two writers there are."""
    value = draw(data)
    if draw(st.booleans()):
        return json.dumps(value, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    flow, width = draw(st.sampled_from([None, True, False])), draw(st.sampled_from([20, 200]))
    return str(yaml.safe_dump(value, sort_keys=False, default_style='"', default_flow_style=flow, width=width))


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """One place of it replaced by a sign or two that mean something in YAML."""
    text = draw(texts)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 3)) :]


NEAR_NAMESPACES = damaged(written(GOOD_NAMESPACES | LOOSE_NAMESPACES))
NEAR_AGENTS = damaged(written(GOOD_AGENTS | LOOSE_AGENTS))


@st.composite
def shuffled(draw: st.DrawFn, data: st.SearchStrategy[Any]) -> tuple[Any, Any]:
    """A document, and the same with the keys of every mapping in another order."""
    value = draw(data)
    return value, _shuffle(value, draw)


def _shuffle(value: Any, draw: st.DrawFn) -> Any:
    if isinstance(value, dict):
        return {key: _shuffle(value[key], draw) for key in draw(st.permutations(list(value)))}
    return [_shuffle(item, draw) for item in value] if isinstance(value, list) else value


def check_bytes(raw: bytes) -> None:
    """A document, or a ConfigError whose every problem has a place."""
    found: Document | None = None
    refusals: tuple[str, ...] = ()
    try:
        found = parse(raw, "f.yaml")
    except ConfigError as error:
        refusals = error.problems
    assert isinstance(found, Document) is not bool(refusals)
    assert all(re.match(r"f\.yaml:\d+:\d+: ", problem) for problem in refusals)
    assert found is None or isinstance(found.data, dict)


def check_texts(namespaces: str, agents: str) -> None:
    """Jobs, or a ConfigError whose every problem has a place and tells no value; the same each time."""
    reading = Files({"namespaces": _encoded(namespaces), "agents": _encoded(agents)})
    first, second = outcome(reading), outcome(reading)
    assert first == second
    if isinstance(first, JobSet):
        assert all(job.id == name for name, job in first.jobs.items())
        return
    for problem in first:
        assert PLACE.match(problem), problem
        assert CANARY not in problem


def check_order(one: Any, other: Any) -> None:
    """Good files give jobs, and the order of their keys is nothing that a job could show."""
    here, there = (outcome(files(json.dumps(value["n"]), json.dumps(value["a"]))) for value in (one, other))
    assert isinstance(here, JobSet), here
    assert isinstance(there, JobSet), there
    assert here.jobs == there.jobs
    assert revisions(here.jobs) == revisions(there.jobs)
    assert (here.counts, len(here.warnings)) == (there.counts, len(there.warnings))


GOOD_BOTH = st.fixed_dictionaries({"n": GOOD_NAMESPACES, "a": GOOD_AGENTS})


def outcome(reading: Files) -> "JobSet | tuple[str, ...]":
    try:
        return compile_files(reading, wanted(), {"X": "1"})
    except ConfigError as error:
        return error.problems


def revisions(jobs: Mapping[str, Job]) -> dict[str, str]:
    return {name: job.revision for name, job in jobs.items()}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
