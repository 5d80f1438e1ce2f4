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

EVERY_FIELD = """\
namespaces:
  full:
    description: All there is
    witnesses: {min_required: 2, allowlist: [a, b, c]}
    schema_policy: {allow: ["ledger.append@1.0.x"]}
    seal: {files: ["*.md", "docs/**/*.md"], base: site}
    cadence:
      fast: &usual
        target: "eip155:8453"
        every: 89s
        confirmations: 3
        policyOID: "1.2.3.4"
        command: [send, --now, "${KEY:-none}"]
        timeout: 5m
        grace: 3s
        misfire_grace: 1h
        catch_up: all
        overlap: wait
        splay: 20s
        probe: [ask]
        on_unknown: retry
        reanchor: true
        crash_exact: false
        env: {LEVEL: high}
        pass_env: [HOME, EVM_RPC]
        cwd: somewhere
        umask: "077"
        limits: {cpu_seconds: 10, address_space: 1000000, file_size: 1000, open_files: 64, processes: 9}
        outlive: true
        retry:
          base: 250ms
          max: 3
          multipliers: {network: 1, auth: 3.5, validation: 0.1, unknown: 2}
          jitter: 0.5
          rules:
            - {exit: 75, class: network}
            - {stderr: "insufficient (funds|gas)", class: validation}
        enabled: false
      strong: {target: "btc:mainnet", every: 34*fast, catch_up: skip}
      cold: {target: "rfc3161:tsa", every: 2*strong, policyOID: ""}
  same:
    cadence: {fast: *usual}
"""
EVERY_AGENT_FIELD = """\
agents:
  - agentId: a1
    userId: u1
    name: One
    walletAddress: "kaspa:qq0"
    strategyLabel: Bold
    cycleIntervalMs: 250
    status: PAUSED
    callback: {command: [wake, "1"], timeout: 10s, grace: 1s, env: {A: b}, umask: "0022", limits: {open_files: 9}}
  - {agentId: a2, walletAddress: "kaspatest:qq1", callback: {url: "https://example.org/x?y=1", timeout: 3s}}
"""
EVERY_SETTING = """\
tick_ms: 5000
concurrency: 4
drain_ms: 10000
metrics_host: 127.0.0.1
metrics_port: 0
base_backoff: 3
max_backoff: 5
log_level: debug
log_format: json
on_state_loss: run
anchor_write_enabled: false
retention_rows: 10
retention_days: 3
retention_bytes: 10000000
commands:
  local: ["{python}", -m, vmsh_scheduler.anchors, local]
  eip155: [send, evm]
  btc: [send, btc, "${KEY:-none}"]
  rfc3161: [send, tsa]
pass_env: [KEY, EVM_RPC]
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
    return Defaults(root, root / "state" / "keys", 5, 7, commands, (), root / "state" / "scheduler.db")


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
