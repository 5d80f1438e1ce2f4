"""Configuration texts through the real pipeline, with settings of a test's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.catalog import Defaults, compile_files
from vmsh_scheduler.sources.compiled import JobSet

ROOT = Path("/srv/vmsh")
LOCAL = ("{python}", "-m", "vmsh_scheduler.anchors", "local")
STUBS = {"local": LOCAL, "eip155": ("anchor-evm",), "btc": ("anchor-btc",), "rfc3161": ("anchor-tsa",)}

SEED_003 = """\
namespaces:
  dao:vaultmesh::
    cadence:
      fast:
        target: "eip155:8453"  # Base L2
        every: "89s"
      strong:
        target: "btc:mainnet"
        every: "34*fast"
      cold:
        target: "rfc3161:tsa"
        every: "1d"
"""


@dataclass(frozen=True, slots=True)
class Files:
    """A reading without a disk."""

    raw: Mapping[str, bytes]
    sha256: str = "c0ffee"
    names: Mapping[str, str] = field(default_factory=lambda: {"namespaces": "namespaces.yaml", "agents": "agents.yaml"})


def files(namespaces: str | None = None, agents: str | None = None) -> Files:
    given = {"namespaces": namespaces, "agents": agents}
    return Files({role: dedent(text).encode() for role, text in given.items() if text is not None})


def wanted(commands: Mapping[str, tuple[str, ...]] = STUBS, *, root: Path = ROOT) -> Defaults:
    return Defaults(root, root / "state" / "keys", 5, 7, commands, ())


def job_set(namespaces: str | None = None, agents: str | None = None, **environ: str) -> JobSet:
    return compile_files(files(namespaces, agents), wanted(), environ)


def problems(namespaces: str | None = None, agents: str | None = None) -> tuple[str, ...]:
    """What the files are refused for; fails if they are accepted."""
    with pytest.raises(ConfigError) as refused:
        job_set(namespaces, agents)
    return refused.value.problems


def cadence(*lines: str, target: str = "local:demo", every: str = "89s") -> Job:
    """The job of a lone `fast` level with more `lines` of its mapping."""
    text = f"namespaces:\n  ns:\n    cadence:\n      fast:\n        target: {target}\n        every: {every}\n"
    return job_set(text + "".join(f"        {line}\n" for line in lines)).jobs["ns/fast"]


def agent(*lines: str, callback: str = "{command: [wake]}") -> Job:
    """The one job of a file with one agent."""
    text = f"agents:\n  - agentId: a1\n    walletAddress: kaspa:qq0\n    callback: {callback}\n"
    (job,) = job_set(agents=text + "".join(f"    {line}\n" for line in lines)).jobs.values()
    return job
