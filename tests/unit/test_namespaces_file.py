"""namespaces.yaml -> jobs, and everything that is refused, at its place."""

from dataclasses import replace

import pytest

from tests.support.config import ROOT, SEED_003, cadence, files, job_set, problems, wanted
from vmsh_scheduler.domain.action import Command, ErrorRule, Limits
from vmsh_scheduler.domain.job import CatchUp, OnUnknown, Overlap
from vmsh_scheduler.domain.retry import ErrorClass, PhiBackoff
from vmsh_scheduler.domain.trigger import Interval, stable_phase
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.catalog import compile_files

SHIPPED_BY_VAULTMESH = """
    namespaces:
      dao:vaultmesh:
        description: The DAO
        witnesses: {min_required: 2, allowlist: [a, b, c]}
        schema_policy: {allow: [ledger.append@1.0.x]}
        cadence:
          fast: {target: "eip155:8453", every: 89s, confirmations: 3}
          strong: {target: "btc:mainnet", every: 34*fast, confirmations: 6}
          cold: {target: "rfc3161:tsa", every: 1d, policyOID: ""}
      fin:clearing:
        witnesses: {min_required: 3, allowlist: [a, b, c]}
        cadence:
          fast: {target: "eip155:1", every: 120s, confirmations: 12}
          strong: {target: "btc:mainnet", every: 17*fast, confirmations: 6}
          cold: {target: "rfc3161:tsa", every: 12h}
    """


def test_the_example_of_seed_003_unchanged() -> None:
    found = job_set(SEED_003)
    assert {name: job.trigger for name, job in found.jobs.items()} == {
        "dao:vaultmesh:/fast": Interval(89_000),
        "dao:vaultmesh:/strong": Interval(34 * 89_000),
        "dao:vaultmesh:/cold": Interval(86_400_000),
    }
    assert found.jobs["dao:vaultmesh:/fast"].labels == {
        "namespace": "dao:vaultmesh:",
        "cadence": "fast",
        "target": "eip155:8453",
    }
    assert found.counts == {"namespaces": 1, "cadences": 3, "agents": 0}
    assert found.config_hash == "c0ffee"


def test_the_trailing_colon_is_kept_and_warned_about() -> None:
    (warning,) = job_set(SEED_003).warnings
    assert warning.startswith("namespaces.yaml:2:3: namespaces.dao:vaultmesh:: ends in a colon")


def test_two_names_that_differ_by_the_colon_alone_are_warned_about_and_stay_two() -> None:
    level = "{cadence: {fast: {target: local:demo, every: 1m}}}"
    found = job_set(f"namespaces:\n  dao:x: {level}\n  dao:x:: {level}\n")
    assert set(found.jobs) == {"dao:x/fast", "dao:x:/fast"}
    (warning,) = found.warnings
    assert "namespaces.yaml:3:3:" in warning
    assert "only by its trailing colon" in warning


def test_vaultmeshs_own_file() -> None:
    found = job_set(SHIPPED_BY_VAULTMESH)
    assert found.counts == {"namespaces": 2, "cadences": 6, "agents": 0}
    assert found.warnings == ()
    action = found.jobs["fin:clearing/strong"].action
    assert isinstance(action, Command)
    assert action.env["VMSH_CONFIRMATIONS"] == "6"
    assert action.payload["confirmations"] == 6


def test_no_namespace_at_all_is_allowed() -> None:
    assert job_set("namespaces: {}\n").jobs == {}


def test_every_field_of_a_cadence() -> None:
    job = cadence(
        "confirmations: 3",
        "policyOID: '1.2.3'",
        "command: [anchor, --now]",
        "timeout: 20s",
        "misfire_grace: 30s",
        "catch_up: all",
        "overlap: wait",
        "splay: 5s",
        "probe: ['{python}', probe.py]",
        "on_unknown: retry",
        "reanchor: true",
        "crash_exact: false",
        "retry: {base: 1500ms, max: 3, multipliers: {auth: 4},",
        "  rules: [{exit: 3, class: auth}, {stderr: 'a.c', class: network}]}",
        "env: {RPC: http://x}",
        "pass_env: [TOKEN]",
        "cwd: work",
        "umask: '077'",
        "limits: {cpu_seconds: 5, open_files: 64}",
        "grace: 2s",
        "outlive: true",
        "enabled: false",
        target="eip155:1",
    )
    assert job.trigger == Interval(89_000, phase=stable_phase("ns/fast", 5_000))
    assert not job.enabled
    assert job.subject is not None
    assert job.subject.reanchor
    policy = job.policy
    assert (policy.timeout, policy.misfire_grace) == (20_000, 30_000)
    assert (policy.catch_up, policy.overlap) == (CatchUp.ALL, Overlap.WAIT)
    assert (policy.on_unknown, policy.crash_exact) == (OnUnknown.RETRY, False)
    assert isinstance(policy.retry, PhiBackoff)
    assert (policy.retry.base_s, policy.retry.cap) == (1.5, 3)
    assert policy.retry.multipliers[ErrorClass.AUTH] == 4.0
    action = job.action
    assert isinstance(action, Command)
    assert action.argv == ("anchor", "--now")
    assert action.rules == (
        ErrorRule(ErrorClass.AUTH, exit_code=3),
        ErrorRule(ErrorClass.NETWORK, pattern="a.c"),
    )
    assert action.env["RPC"] == "http://x"
    assert action.pass_env == ("TOKEN",)
    assert (action.cwd, action.umask, action.grace) == (str(ROOT / "work"), 0o077, 2_000)
    assert action.limits == Limits(cpu_seconds=5, open_files=64)
    assert action.probe[1:] == ("probe.py",)
    assert action.probe[0] != "{python}"
    assert action.outlive
    assert (action.payload["policyOID"], action.env["VMSH_POLICY_OID"]) == ("1.2.3", "1.2.3")


def test_seal_says_what_is_sealed() -> None:
    found = job_set(
        """
        namespaces:
          ns:
            seal: {files: [README.md, "docs/**/*.md"], base: site}
            cadence: {fast: {target: "local:demo", every: 10s}, strong: {target: "local:demo", every: 6*fast}}
        """
    )
    for job in found.jobs.values():
        assert job.subject is not None
        assert (job.subject.kind, job.subject.base) == ("seal", str(ROOT / "site"))
        assert job.subject.files == ("README.md", "docs/**/*.md")


def test_seal_may_be_over_the_journal() -> None:
    found = job_set(
        """
        namespaces:
          own:record:
            seal: {journal: true}
            cadence: {fast: {target: "local:record", every: 5m}}
        """
    )
    subject = found.jobs["own:record/fast"].subject
    assert subject is not None
    assert (subject.kind, subject.base, subject.files) == ("journal", str(ROOT / "state/scheduler.db"), ())
    assert subject.seals


def test_a_journal_in_redis_cannot_be_sealed() -> None:
    text = "namespaces: {x: {seal: {journal: true}, cadence: {fast: {target: 'local:a', every: 1m}}}}\n"
    with pytest.raises(ConfigError) as refused:
        compile_files(files(text), replace(wanted(), journal_path=None), {})
    (problem,) = refused.value.problems
    assert problem.startswith("namespaces.yaml:1:34: namespaces.x.seal.journal: the journal is in Redis here")


def test_the_working_directory_is_not_named_when_it_is_the_daemons_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))
    from pathlib import Path

    text = "namespaces: {ns: {cadence: {fast: {target: 'local:demo', every: 1m}}}}\n"
    job = compile_files(files(text), wanted(root=Path.cwd()), {}).jobs["ns/fast"]
    assert isinstance(job.action, Command)
    assert job.action.cwd is None


LEVEL = "namespaces:\n  ns:\n    cadence:\n      fast:\n        target: local:demo\n        every: 89s\n"


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("timeout: 5", 18, "fast.timeout: a bare number has no unit"),
        ("timeout: 5 s", 18, "fast.timeout: not a length of time"),
        ("timeout: 0s", 18, "fast.timeout: must be more than 0"),
        ("timeout: 11000d", 18, "fast.timeout: must be at most 10 years"),
        ("tiemout: 5s", 9, "did you mean"),
        ("confirmations: -1", 24, "fast.confirmations"),
        ("confirmations: '3'", 24, "fast.confirmations"),
        ("policyOID: abc", 20, "fast.policyOID: not an OID"),
        ("command: []", 18, "fast.command"),
        ("command: [' ']", 18, "fast.command: the first item is the program"),
        ("command: npm run", 18, "fast.command"),
        ('command: ["a\\0b"]', 19, "NUL"),
        ("catch_up: twice", 19, "fast.catch_up"),
        ("overlap: maybe", 18, "fast.overlap"),
        ("on_unknown: panic", 21, "fast.on_unknown"),
        ("reanchor: 1", 19, "fast.reanchor"),
        ("splay: 90s", 16, "fast.splay: must not be longer"),
        ("umask: '999'", 16, "fast.umask: not a umask"),
        ("env: {1A: x}", 15, "not a variable's name"),
        ("pass_env: [A-B]", 20, "not a variable's name"),
        ("limits: {open_files: 0}", 30, "fast.limits.open_files"),
        ("retry: {base: 5}", 23, "fast.retry.base: a bare number"),
        ("retry: {max: 31}", 22, "fast.retry.max"),
        ("retry: {multipliers: {auth: 0}}", 37, "fast.retry.multipliers.auth"),
        ("retry: {rules: [{exit: 0, class: auth}]}", 32, "rules[0].exit"),
        ("retry: {rules: [{stderr: '(', class: auth}]}", 34, "rules[0].stderr: not a regular expression"),
        ("retry: {rules: [{exit: 1, class: bad}]}", 42, "rules[0].class"),
        ("retry: {rules: [{class: auth}]}", 25, "rules[0]: takes either `exit` or `stderr`"),
        ("retry: {rules: [{exit: 1, stderr: x, class: auth}]}", 25, "rules[0]: takes either"),
    ],
)
def test_a_bad_field_is_refused_at_its_place(line: str, column: int, message: str) -> None:
    (problem,) = problems(f"{LEVEL}        {line}\n")
    assert problem.startswith(f"namespaces.yaml:7:{column}: namespaces.ns.cadence.fast"), problem
    assert message in problem


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("namespaces: {_x: {cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:14", "reserved"),
        ("namespaces: {'': {cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:14", "needs a name"),
        ("namespaces: {x: {cadence: {}}}", "1:18", "level `fast` is required"),
        ("namespaces: {x: {cadence: {fats: {target: 'local:a', every: 1m}}}}", "1:18", "where it says fats"),
        ("namespaces: {x: {}}", "1:", "cadence"),
        ("namespaces: {x: {cadence: {fast: {target: 'local:a', every: 34*fast}}}}", "1:61", "itself"),
        ("namespaces: {x: {cadence: {fast: {target: 'local:a', every: 0s}}}}", "1:61", "more than 0"),
        ("namespaces: {x: {cadence: {fast: {target: 'local:a', every: 89}}}}", "1:61", "bare number"),
        ("namespaces: {x: {cadence: {fast: {target: 'local:a'}}}}", "1:", "every"),
        ("namespaces: {x: {cadence: {fast: {target: 'lokal:a', every: 1m}}}}", "1:43", "did you mean local"),
        ("namespaces: {x: {seal: {files: []}, cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:32", "files"),
        ("namespaces: {x: {seal: {files: [/etc]}, cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:33", "base"),
        ("namespaces: {x: {seal: {files: [../a]}, cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:33", "base"),
        ("namespaces: {x: {seal: {}, cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:24", "takes either"),
        ("namespaces: {x: {seal: {journal: false}, cadence: {fast: {target: 'local:a', every: 1m}}}}",
         "1:24", "takes either"),
        ("namespaces: {x: {seal: {journal: true, files: [a]}, cadence: {fast: {target: 'local:a', every: 1m}}}}",
         "1:24", "takes either `files` or `journal: true`"),
        ("namespaces: {x: {seal: {journal: true, base: .}, cadence: {fast: {target: 'local:a', every: 1m}}}}",
         "1:24", "`base` is for `files`"),
        ("namespaces: {x: {witnesses: {min_required: 0, allowlist: []}, "
         "cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:44", "min_required"),
        ("namespaces: {x: {schema_policy: {alow: []}, "
         "cadence: {fast: {target: 'local:a', every: 1m}}}}", "1:", "allow"),
        ("namespaces: [x]", "1:13", "namespaces"),
        ("namespaces: {x: 5}", "1:17", "namespaces.x"),
        ("namespaces: {x: {cadence: [fast]}}", "1:27", "cadence"),
        ("namespaces: {x: {cadence: {fast: 89s}}}", "1:34", "fast"),
        ("{}", "1:", "namespaces"),
    ],
)  # fmt: skip
def test_a_bad_namespace_is_refused_at_its_place(text: str, where: str, message: str) -> None:
    found = problems(text + "\n")
    matching = [p for p in found if p.startswith(f"namespaces.yaml:{where}") and message in p]
    assert matching, found


def test_problems_of_all_kinds_and_of_both_files_come_at_once_and_by_line() -> None:
    found = problems(
        """\
        namespaces:
          a:
            cadence:
              fast: {target: "local:a", every: 34*fast}
              Strong: {target: "btc:mainet", every: "2*slow", timeout: 5}
          _b:
            cadence: {fats: {target: "eip155:0", every: 1w}}
        """,
        "agents: [{agentId: a}]\n",
    )
    lines = [tuple(map(int, p.split(":")[1:3])) for p in found if p.startswith("namespaces.yaml")]
    assert lines == sorted(lines)
    text = "\n".join(found)
    for wanted_text in ("itself", "lower-case", "mainnet", "`slow`", "bare number", "reserved", "`fast` is required",
                        "chain id", "not a period", "walletAddress", "callback"):  # fmt: skip
        assert wanted_text in text, wanted_text


def test_a_level_that_looks_like_a_slip_is_warned_about() -> None:
    found = job_set(
        """
        namespaces:
          ns:
            cadence:
              fast: {target: "local:a", every: 1m}
              stong: {target: "local:a", every: 2*fast}
              hourly: {target: "local:a", every: 1h}
        """
    )
    (warning,) = found.warnings
    assert "stong" in warning
    assert "did you mean strong?" in warning


def test_a_target_without_a_command_is_refused_only_if_it_is_used() -> None:
    only_local = wanted({"local": ("anchor",)})
    text = SEED_003.replace("rfc3161:tsa", "local:x").replace("btc:mainnet", "local:x")
    with pytest.raises(ConfigError) as refused:
        compile_files(files(text), only_local, {})
    (problem,) = refused.value.problems
    assert problem.startswith("namespaces.yaml:5:17: namespaces.dao:vaultmesh:.cadence.fast.target: ")
    assert "`command`" in problem
    assert "`commands.eip155` in scheduler.yaml" in problem
    own = text.replace('every: "89s"', 'every: "89s"\n        command: [mine]')
    assert compile_files(files(own), only_local, {}).counts["cadences"] == 3


def test_values_may_come_from_the_environment_and_never_reach_a_message() -> None:
    text = LEVEL + "        timeout: ${T}\n        env: {KEY: '${KEY}'}\n"
    job = job_set(text, T="7s", KEY="hunter2").jobs["ns/fast"]
    assert job.policy.timeout == 7_000
    assert isinstance(job.action, Command)
    assert job.action.env["KEY"] == "hunter2"
    with pytest.raises(ConfigError) as refused:
        job_set(text.replace("env:", "Env:"), T="hunter2", KEY="hunter2")
    assert "hunter2" not in "".join(refused.value.problems)


def test_what_needs_quotes_hides_nothing_else_in_the_file() -> None:
    text = """
        namespaces:
          ns:
            cadence:
              fast: {target: "local:demo", every: 1:30}
              strong: {target: "local:${NOT_SET_ANYWHERE}", every: 2*fast, cmmand: [x]}
            witneses: {}
        """
    with pytest.raises(ConfigError) as caught:
        job_set(text)
    told = "\n".join(caught.value.problems)
    for word in ("quote it", "NOT_SET_ANYWHERE", "cmmand", "witneses"):
        assert word in told
    assert sum("every" in problem and "fast" in problem for problem in caught.value.problems) == 1
