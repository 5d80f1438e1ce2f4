"""Every default of namespaces.yaml and agents.yaml that docs/config.md promises."""

import sys

import pytest

from tests.support.config import ROOT, agent, cadence, job_set
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import CatchUp, Job, OnUnknown, Origin, Overlap
from vmsh_scheduler.domain.retry import ErrorClass, FlatRetry, PhiBackoff
from vmsh_scheduler.domain.trigger import Interval, Since

TEN_YEARS = 3_653 * 86_400_000


def command(job: Job) -> Command:
    assert isinstance(job.action, Command)
    return job.action


def test_a_cadence_is_on_the_unshifted_grid() -> None:
    assert cadence().trigger == Interval(89_000, Since.SLOT, 0)


@pytest.mark.parametrize(
    ("target", "timeout", "on_unknown"),
    [
        ("eip155:8453", 300_000, OnUnknown.HOLD),
        ("btc:mainnet", 300_000, OnUnknown.HOLD),
        ("rfc3161:tsa", 120_000, OnUnknown.RETRY),
        ("local:demo", 120_000, OnUnknown.RETRY),
    ],
)
def test_timeout_and_unknown_runs_by_scheme(target: str, timeout: int, on_unknown: OnUnknown) -> None:
    policy = cadence(target=target).policy
    assert (policy.timeout, policy.on_unknown) == (timeout, on_unknown)


def test_policy_of_a_cadence() -> None:
    policy = cadence().policy
    assert (policy.overlap, policy.catch_up, policy.crash_exact) == (Overlap.SKIP, CatchUp.ONCE, True)
    assert policy.priority == 2


@pytest.mark.parametrize(
    ("catch_up", "every", "grace"),
    [
        ("once", "89s", 89_000),
        ("all", "89s", 890_000),
        ("skip", "89s", 10_000),
        ("skip", "10s", 10_000),
        ("skip", "3s", 3_000),
    ],
)
def test_misfire_grace_by_catch_up(catch_up: str, every: str, grace: int) -> None:
    policy = cadence(f"catch_up: {catch_up}", every=every).policy
    assert (policy.catch_up, policy.misfire_grace) == (CatchUp(catch_up), grace)


def test_backoff_of_a_cadence() -> None:
    assert cadence().policy.retry == PhiBackoff(
        5.0,
        7,
        {
            ErrorClass.NETWORK: 1.0,
            ErrorClass.AUTH: 2.0,
            ErrorClass.VALIDATION: 0.5,
            ErrorClass.UNKNOWN: 1.0,
        },
    )


def test_command_of_a_cadence() -> None:
    action = command(cadence())
    assert action.argv == (sys.executable, "-m", "vmsh_scheduler.anchors", "local")
    assert (action.grace, action.outlive, action.umask, action.limits) == (10_000, False, None, None)
    assert (action.rules, action.probe, action.pass_env) == ((), (), ("CREDENTIALS_DIRECTORY",))
    assert action.cwd == str(ROOT)


def test_what_a_cadences_command_is_told() -> None:
    action = command(cadence())
    assert action.payload == {
        "namespace": "ns",
        "cadence": "fast",
        "target": "local:demo",
        "confirmations": None,
        "policyOID": "",
        "root": str(ROOT),
    }
    assert action.env == {
        "VMSH_CONFIRMATIONS": "",
        "VMSH_POLICY_OID": "",
        "VMSH_ROOT": str(ROOT),
        "VMSH_KEYS": str(ROOT / "state" / "keys"),
    }


def test_the_place_of_keys_is_told_to_the_local_ledger_alone() -> None:
    action = command(cadence(target="rfc3161:tsa"))
    assert "VMSH_KEYS" not in action.env
    assert action.pass_env == ()


def test_subject_of_a_cadence() -> None:
    subject = cadence().subject
    assert subject is not None
    assert (subject.kind, subject.namespace, subject.reanchor) == ("batches", "ns", False)
    assert subject.directory == str(ROOT / "out" / "batches")


def test_base_of_a_seal_is_the_root() -> None:
    text = """
        namespaces:
          ns:
            seal: {files: ["*.md"]}
            cadence: {fast: {target: "local:demo", every: 89s}}
        """
    subject = job_set(text).jobs["ns/fast"].subject
    assert subject is not None
    assert (subject.kind, subject.files, subject.base) == ("seal", ("*.md",), str(ROOT))


def test_a_file_cadence_is_enabled() -> None:
    job = cadence()
    assert (job.enabled, job.origin, job.lane, job.name) == (True, Origin.FILE, "ns local:demo", "ns/fast")
    assert job.labels == {"namespace": "ns", "cadence": "fast", "target": "local:demo"}


def test_an_agent() -> None:
    job = agent()
    assert (job.id, job.lane, job.name) == ("_agents/anon/a1", "_agents/anon/a1", "a1")
    assert (job.enabled, job.origin, job.subject) == (True, Origin.FILE, None)
    assert job.labels == {"user": "anon", "agent": "a1"}
    assert job.trigger == Interval(15_000, Since.FINISH)


def test_policy_of_an_agent() -> None:
    policy = agent().policy
    assert policy.retry == FlatRetry(5_000)
    assert (policy.timeout, policy.misfire_grace) == (30_000, TEN_YEARS)
    assert (policy.overlap, policy.catch_up) == (Overlap.SKIP, CatchUp.ONCE)
    assert (policy.on_unknown, policy.crash_exact) == (OnUnknown.RETRY, False)


def test_what_an_agents_command_is_told() -> None:
    action = command(agent())
    assert action.payload == {
        "event": "forgeos.scheduler.cycle",
        "agent": {
            "id": "a1",
            "userId": "anon",
            "name": "a1",
            "strategyLabel": "Custom",
            "cycleIntervalMs": 15_000,
            "walletAddress": "kaspa:qq0",
        },
    }
    assert (action.env, action.grace, action.argv) == ({}, 10_000, ("wake",))
