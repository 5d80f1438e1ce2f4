"""Whatever the files hold: jobs or a ConfigError whose every line has a place, nothing else, and the same each time."""

import copy
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from tests.support.config import EVERY_AGENT_FIELD, EVERY_FIELD, files, job_set
from tests.support.mutations import CHANGES, bases, examine, mutated
from tests.support.near_yaml import (
    CANARY,
    GOOD_BOTH,
    LOOSE_AGENTS,
    LOOSE_NAMESPACES,
    NEAR_AGENTS,
    NEAR_NAMESPACES,
    VALUES,
    check_order,
    check_texts,
    outcome,
    revisions,
    shuffled,
)

MUTATIONS = 300


@settings(max_examples=40, deadline=None)
@given((VALUES | LOOSE_NAMESPACES).map(json.dumps), (VALUES | LOOSE_AGENTS).map(json.dumps))
def test_c7_fuzz_any_values_are_jobs_or_problems_with_a_place(namespaces: str, agents: str) -> None:
    check_texts(namespaces, agents)


@settings(max_examples=40, deadline=None)
@given(NEAR_NAMESPACES, NEAR_AGENTS)
def test_c7_fuzz_nearly_valid_files_are_jobs_or_problems_with_a_place(namespaces: str, agents: str) -> None:
    check_texts(namespaces, agents)


@settings(max_examples=30, deadline=None)
@given(shuffled(GOOD_BOTH))
def test_the_order_of_keys_changes_no_job(both: tuple[Any, Any]) -> None:
    check_order(*both)


def test_the_order_of_an_argv_does() -> None:
    """Lists are no mappings: the check above would notice a change."""
    one, other = (
        job_set(EVERY_FIELD.replace("[send, --now, ", words)) for words in ("[send, --now, ", "[--now, send, ")
    )
    changed = {name for name, job in one.jobs.items() if job != other.jobs[name]}
    assert changed == {"full/fast", "same/fast"}
    assert revisions(one.jobs)["full/fast"] != revisions(other.jobs)["full/fast"]


def test_files_with_every_field_are_good() -> None:
    found = job_set(EVERY_FIELD, EVERY_AGENT_FIELD)
    assert set(found.jobs) == {"full/fast", "full/strong", "full/cold", "same/fast", "_agents/u1/a1", "_agents/anon/a2"}


def test_c7_mutated_files_are_taken_or_refused_within_a_second(tmp_path: Path) -> None:
    found = examine(tmp_path, 0, MUTATIONS)
    assert (found.code, found.words) == (0, ""), f"ended at {found.seen[-1:]}"
    assert found.escapes() == []
    assert len(found.seen) == MUTATIONS
    assert [seen for seen in found.seen if seen.cpu_ms > 1_000] == []
    assert len(found.outcomes("refused")) > MUTATIONS / 2
    assert len(found.outcomes("accepted")) > MUTATIONS / 50


def test_c7_mutated_files_let_a_naive_reader_fall(tmp_path: Path) -> None:
    kinds = Counter(seen.outcome for seen in examine(tmp_path, 0, MUTATIONS // 3, "naive").escapes())
    assert kinds.keys() >= {"ValueError", "KeyError", "TypeError", "ParserError", "UnicodeDecodeError"}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_kind_of_mutation_changes_something(change: Any) -> None:
    raw = bases()[1]["namespaces"]
    assert any(change(raw, Random(seed)) != raw for seed in range(5))
    assert mutated(7) == mutated(7)


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Of every value below `node`."""
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in below:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(document: Any, path: tuple[str | int, ...], value: object) -> str:
    changed = copy.deepcopy(document)
    at = changed
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return json.dumps(changed)


C12_SHAPES: list[Any] = [
    CANARY,
    f"-{CANARY}:{CANARY}",
    f"(?P<{CANARY}>x)(?P<{CANARY}>",
    f"(?P={CANARY})",
    [CANARY],
    {"a": CANARY},
    {f"TOKEN={CANARY}": None},
    {f"TOKEN:{CANARY}": None},
    {f"TOKEN {CANARY}": 1},
    f"${{X:{CANARY}",
]


@pytest.mark.parametrize("shape", C12_SHAPES, ids=str)
def test_c12_a_value_at_a_wrong_place_is_in_no_message(shape: Any) -> None:
    """Also one that YAML takes for a key, as in `{TOKEN=...}`."""
    said: list[str] = []
    for role, text in (("namespaces", EVERY_FIELD), ("agents", EVERY_AGENT_FIELD)):
        document = yaml.safe_load(text)
        document.get("namespaces", {}).pop("same", None)
        for path in places(document):
            if len(path) > 1 and not (isinstance(shape, dict) and path == ("namespaces", "full")):
                found = outcome(files(**{role: put(document, path, shape)}))
                said += found if isinstance(found, tuple) else []
    assert len(said) > 30
    assert [problem for problem in said if CANARY in problem] == []
