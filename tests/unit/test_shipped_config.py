"""The files in config/ work as they are, with the built-in commands alone."""

from pathlib import Path

from tests.support.config import LOCAL, ROOT, SEED_003, Files, wanted
from vmsh_scheduler.domain.trigger import Interval
from vmsh_scheduler.sources.catalog import compile_files

CONFIG = Path(__file__).parents[2] / "config"


def test_they_compile_without_a_warning() -> None:
    raw = {role: (CONFIG / f"{role}.yaml").read_bytes() for role in ("namespaces", "agents")}
    found = compile_files(Files(raw), wanted({"local": LOCAL}), {})
    assert found.warnings == ()
    assert found.counts == {"namespaces": 1, "cadences": 2, "agents": 1}
    fast, strong, demo = found.jobs.values()
    assert (fast.trigger, strong.trigger) == (Interval(10_000), Interval(60_000))
    assert fast.subject is not None
    assert (fast.subject.kind, fast.subject.reanchor) == ("seal", True)
    assert fast.subject.files == ("README.md", "docs/**/*.md", "config/*.yaml")
    assert fast.subject.base == str(ROOT)
    assert not demo.enabled


def test_the_commented_example_is_the_one_of_seed_003() -> None:
    text = (CONFIG / "namespaces.yaml").read_text()
    example = text[text.index("  # dao:vaultmesh::") :].splitlines()
    lines = ["  " + line.removeprefix("  # ").split("#")[0].rstrip() for line in example]
    seed = [line.split("#")[0].rstrip() for line in SEED_003.splitlines()[1:]]
    assert lines == seed
