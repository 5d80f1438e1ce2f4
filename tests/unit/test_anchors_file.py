"""anchors.yaml: which entry a cadence gets, what is refused and where, and that nothing secret leaves it."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.config import Files, wanted
from vmsh_scheduler.anchors import rail_entry
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job, OnUnknown
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources import anchors_file
from vmsh_scheduler.sources.catalog import compile_files

KEY = "0x" + "4c" * 32
EVM = {"EVM_RPC": "https://user:hunter2@node.example/v2/abc", "EVM_ANCHOR_KEY": KEY}
BOTH = """\
eip155:
  default: {rpcUrl: "${EVM_RPC}", key: "${EVM_ANCHOR_KEY}", chainId: "${EVM_CHAIN_ID:-}"}
rfc3161:
  default: {url: "${TSA_URL:-https://tsa.example/tsr}", policyOID: '${TSA_POLICY_OID:-""}', trustBundle: roots.pem}
"""


@pytest.fixture(autouse=True)
def every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors_file, "find_spec", lambda name: object())


def compiled(
    anchors: str,
    *targets: str,
    environ: Mapping[str, str] = {},
    commands: Mapping[str, tuple[str, ...]] = {},
    more: str = "",
) -> dict[str, Job]:
    """By target, those that anchor."""
    levels = "".join(
        f'        {name}: {{target: "{target}", every: 1h{more}}}\n'
        for name, target in zip(("fast", "strong", "cold"), targets or ("rfc3161:tsa",), strict=False)
    )
    raw = {"namespaces": f"namespaces:\n  ns:\n    cadence:\n{levels}".encode(), "anchors": dedent(anchors).encode()}
    jobs = compile_files(Files(raw), wanted(commands), environ).jobs
    return {job.labels["target"]: job for job in jobs.values() if "target" in job.labels}


def problems(anchors: str, *targets: str, environ: Mapping[str, str] = {}) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        compiled(anchors, *targets, environ=environ)
    return refused.value.problems


def command(job: Job) -> Command:
    assert isinstance(job.action, Command)
    return job.action


def facts(job: Job, environ: Mapping[str, str] = {}) -> Facts:
    """What the run's subprocess is told, of an environment that only `pass_env` lets through."""
    action = command(job)
    seen = {name: environ[name] for name in action.pass_env if name in environ}
    return Facts(action.payload, {**seen, **action.env})


def test_a_target_runs_the_verb_of_its_rail() -> None:
    jobs = compiled(BOTH, "rfc3161:tsa", "eip155:8453", environ=EVM)
    tsa, evm = command(jobs["rfc3161:tsa"]), command(jobs["eip155:8453"])
    assert tsa.argv[1:] == ("-P", "-m", "vmsh_scheduler.anchors", "tsa")
    assert evm.argv[-1] == "evm"
    assert (tsa.probe, evm.probe[-1]) == ((), "probe")
    assert tsa.payload["railName"] == "default"
    assert jobs["rfc3161:tsa"].policy.on_unknown is OnUnknown.RETRY
    assert jobs["eip155:8453"].policy.on_unknown is OnUnknown.HOLD


def test_one_chain_is_one_lane_whoever_anchors() -> None:
    jobs = compiled(BOTH, "rfc3161:tsa", "eip155:8453", environ=EVM)
    assert (jobs["rfc3161:tsa"].lane, jobs["eip155:8453"].lane) == ("ns rfc3161:tsa", "eip155:8453")


def test_a_command_of_ones_own_wins() -> None:
    job = compiled(BOTH, commands={"rfc3161": ("mine",)})["rfc3161:tsa"]
    assert command(job).argv == ("mine",)
    assert "rail" not in command(job).payload
    assert command(compiled(BOTH, more=", command: [theirs]")["rfc3161:tsa"]).argv == ("theirs",)


def test_without_either_both_ways_out_are_told() -> None:
    (problem,) = problems("btc: {}\n", "btc:mainnet")
    assert "set `command` in this cadence" in problem
    assert "an entry under `btc` in anchors.yaml" in problem


def test_nothing_expanded_goes_into_a_job() -> None:
    job = compiled(BOTH, "eip155:8453", environ=EVM)["eip155:8453"]
    assert command(job).payload["rail"] == {
        "rpcUrl": "${EVM_RPC}",
        "key": "${EVM_ANCHOR_KEY}",
        "chainId": "${EVM_CHAIN_ID:-}",
    }
    assert "hunter2" not in repr(job)
    assert KEY not in repr(job)
    assert {"EVM_RPC", "EVM_ANCHOR_KEY", "EVM_CONFIRMATIONS", "CREDENTIALS_DIRECTORY"} <= set(command(job).pass_env)


def test_the_subprocess_fills_it_in() -> None:
    job = compiled(BOTH, "eip155:8453", environ={**EVM, "OTHER": "x"})["eip155:8453"]
    rail = rail_entry.evm_rail(facts(job, EVM))
    assert (rail.chain_id, rail.key, rail.confirmations, rail.persist) == (8453, KEY, 12, False)
    assert rail.rpc == rail_entry.Endpoint("https://node.example/v2/abc", "user", "hunter2")
    assert "hunter2" not in repr(rail) + repr(rail.rpc)
    assert KEY not in repr(rail)


def test_an_unset_variable_is_told_by_the_subprocess_too() -> None:
    job = compiled(BOTH, "eip155:8453", environ=EVM)["eip155:8453"]
    with pytest.raises(ConfigError, match=r"anchors.yaml: eip155.default.rpcUrl: environment variable EVM_RPC"):
        rail_entry.evm_rail(facts(job, {"EVM_ANCHOR_KEY": KEY}))


def test_a_change_of_an_entry_changes_the_cadences_that_use_it() -> None:
    before = compiled(BOTH, "rfc3161:tsa", "eip155:1", environ=EVM)
    after = compiled(BOTH.replace("roots.pem", "others.pem"), "rfc3161:tsa", "eip155:1", environ=EVM)
    assert before["rfc3161:tsa"].revision != after["rfc3161:tsa"].revision
    assert before["eip155:1"].revision == after["eip155:1"].revision


def test_a_name_of_its_own_wins_over_default() -> None:
    anchors = BOTH + "  tsa: {url: 'https://own.example/', trustBundle: own.pem}\n"
    assert command(compiled(anchors)["rfc3161:tsa"]).payload["railName"] == "tsa"
    assert command(compiled(anchors, "rfc3161:x")["rfc3161:x"]).payload["railName"] == "default"


def test_what_nobody_uses_may_refer_to_what_is_not_set() -> None:
    assert compiled(BOTH)


def test_what_is_used_must_be_whole() -> None:
    assert problems(BOTH, "eip155:1") == (
        "anchors.yaml:2:21: eip155.default.rpcUrl: environment variable EVM_RPC is not set; "
        "set it, or write ${EVM_RPC:-default}",
        "anchors.yaml:2:40: eip155.default.key: environment variable EVM_ANCHOR_KEY is not set; "
        "set it, or write ${EVM_ANCHOR_KEY:-default}",
    )
    found = problems(
        "rfc3161:\n  tsa: {url: 'https://x/'}\neip155:\n  default: {rpcUrl: 'http://x'}\n", "rfc3161:tsa", "eip155:1"
    )
    assert found == (
        "anchors.yaml:2:8: rfc3161.tsa.trustBundle: required key is missing, or empty",
        "anchors.yaml:4:12: eip155.default.key: is missing: one of key, keyFile, keyCredential",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eip155: {default: {key: 0x4c4c}}", "hexadecimal number; quote it"),
        (f"eip155: {{default: {{key: '{KEY}'}}}}", "key: a secret does not belong into this file"),
        ("eip155: {default: {key: '${K:-0x4c}'}}", "key: a secret does not belong into this file"),
        ("btc: {default: {user: x, password: hunter2}}", "password: a secret does not belong into this file"),
        ("btc: {default: {rpcUrl: 'http://u:hunter2@x/'}}", "rpcUrl: no user information in a URL"),
        ("btc: {default: {rpcUrl: 'http://u:${P}@x/'}}", "rpcUrl: no user information in a URL"),
        (
            "eip155: {default: {rpcUrl: 'https://x.example/v3/0123456789abcdef0123456789abcdef'}}",
            "looks like an API key",
        ),
        ("eip155: {default: {rpcURL: 'https://x'}}", "unknown key; did you mean `rpcUrl`?"),
        ("eip155: {default: {confirmations: many}}", "confirmations: must be a whole number"),
        ("eip155: {default: {contract: '0x12'}}", "not an address"),
        ("rfc3161: {default: {policyOID: '1.x'}}", "not an OID"),
        ("rfc3161: {default: {url: 'ftp://x'}}", "not a URL"),
        ("rfc3161: {'a b': {}}", "no target can have this name"),
        ("btc: {moonnet: {}}", "no target can have this name"),
        ("ipfs: {}", "unknown key"),
        ("eip155: {8453: {}}", "quote it"),
    ],
)
def test_what_is_wrong_is_told_whoever_uses_it(text: str, said: str) -> None:
    found = problems(text + "\n")
    assert any(said in problem for problem in found), found
    assert all(problem.startswith("anchors.yaml:1:") for problem in found if said in problem)
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("anchors", "target", "environ"),
    [
        ('eip155: {default: {rpcUrl: "http://x", keyFile: k, chainId: 1}}', "eip155:8453", {}),
        ('eip155: {"8453": {rpcUrl: "http://x", keyFile: k, chainId: 1}}', "eip155:8453", {}),
        ('eip155: {default: {rpcUrl: "http://x", keyFile: k}}', "eip155:8453", {"EVM_CHAIN_ID": "1"}),
        ('eip155: {default: {rpcUrl: "http://x", keyFile: k, chainId: "${N}"}}', "eip155:8453", {"N": "1"}),
        ('btc: {default: {rpcUrl: "http://x", network: regtest}}', "btc:mainnet", {}),
        ('btc: {default: {rpcUrl: "http://x"}}', "btc:mainnet", {"BTC_NETWORK": "regtest"}),
    ],
)
def test_an_entry_for_another_chain_than_the_targets_is_refused(
    anchors: str, target: str, environ: dict[str, str]
) -> None:
    (problem,) = problems(anchors + "\n", target, environ=environ)
    assert f"is not that of the target {target}; give it an entry of its own" in problem


def test_variables_win_over_the_file() -> None:
    told = {
        **EVM,
        "EVM_CHAIN_ID": "8453",
        "EVM_PERSIST": "yes",
        "EVM_CONFIRMATIONS": "3",
        "EVM_CONTRACT": "0x" + "ab" * 20,
    }
    anchors = 'eip155: {default: {rpcUrl: "http://file", keyFile: k, persist: true, confirmations: 9}}\n'
    rail = rail_entry.evm_rail(facts(compiled(anchors, "eip155:8453", environ=told)["eip155:8453"], told))
    assert (rail.rpc.http().host, rail.key, rail.persist, rail.confirmations) == ("node.example", KEY, False, 3)
    assert rail.contract == "0x" + "ab" * 20


def test_what_a_cadence_says_wins_over_its_rail() -> None:
    job = compiled(BOTH, "eip155:1", environ=EVM, more=", confirmations: 2")["eip155:1"]
    assert rail_entry.evm_rail(facts(job, EVM)).confirmations == 2


def test_secrets_come_from_files_and_credentials(tmp_path: Path) -> None:
    anchors = "eip155: {default: {rpcUrl: 'http://x', keyFile: k}, '5': {rpcUrl: 'http://x', keyCredential: cred}}\n"
    jobs = compiled(anchors, "eip155:1", "eip155:5")
    (tmp_path / "k").write_text(KEY + "\n")
    (tmp_path / "k").chmod(0o600)
    (tmp_path / "cred").write_text("0x01\n")
    by_file, by_name = (
        Facts({**facts(job).document, "root": str(tmp_path)}, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        for job in jobs.values()
    )
    assert rail_entry.evm_rail(by_file).key == KEY
    assert rail_entry.evm_rail(by_name).key == "0x01"
    astray = {"target": "eip155:5", "rail": {"rpcUrl": "http://x", "keyCredential": "../cred"}}
    with pytest.raises(ConfigError, match="keyCredential: must be the name of a credential"):
        rail_entry.evm_rail(Facts(astray, by_name.environ))
    with pytest.raises(ConfigError, match="keyCredential: systemd handed no credentials"):
        rail_entry.evm_rail(Facts({**by_name.document}, {}))
    (tmp_path / "k").unlink()
    with pytest.raises(ConfigError, match=r"eip155.default.keyFile: .*k is not there"):
        rail_entry.evm_rail(by_file)


def test_a_cookie_is_user_and_password(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("__cookie__:hunter2")
    (tmp_path / "c").chmod(0o600)
    job = compiled("btc: {default: {rpcUrl: 'http://x:8332', cookieFile: c, wallet: w}}\n", "btc:mainnet")[
        "btc:mainnet"
    ]
    rail = rail_entry.btc_rail(Facts({**facts(job).document, "root": str(tmp_path)}, {}))
    assert (rail.rpc.user, rail.rpc.password, rail.wallet, rail.network) == ("__cookie__", "hunter2", "w", "mainnet")
    assert "hunter2" not in repr(rail)


GROUP = """\
rfc3161:
  pair: {authorities: [one, two], need: 2}
  one: {url: "https://one.example/", trustBundle: one.pem}
  two: {url: "${TWO}", trustBundle: two.pem, policyOID: "1.2.3"}
"""


def test_a_group_goes_with_its_members() -> None:
    environ = {"TWO": "https://two.example/tsr", "TSA_URL": "https://elsewhere.example"}
    job = compiled(GROUP, "rfc3161:pair", environ=environ)["rfc3161:pair"]
    assert "TWO" in command(job).pass_env
    rail = rail_entry.tsa_rail(facts(job, environ))
    assert rail.need == 2
    assert [(each.name, each.endpoint.http().host, each.policy_oid) for each in rail.authorities] == [
        ("one", "one.example", ""),
        ("two", "two.example", "1.2.3"),
    ]
    changed = compiled(GROUP.replace("one.pem", "x.pem"), "rfc3161:pair", environ=environ)["rfc3161:pair"]
    assert changed.revision != job.revision


def test_a_group_must_be_whole() -> None:
    assert "rfc3161.two.url: environment variable TWO is not set" in problems(GROUP, "rfc3161:pair")[0]
    assert "must name another entry" in problems(GROUP.replace("[one, two]", "[one, three]"), "rfc3161:pair")[0]
    assert "must name another entry" in problems(GROUP.replace("[one, two]", "[one, pair]"), "rfc3161:pair")[0]
    assert any("more than there are" in each for each in problems(GROUP.replace("need: 2", "need: 3"), "rfc3161:pair"))


def test_calendars_are_a_rail_too() -> None:
    anchors = "ots: {default: {calendars: ['https://a.example', 'https://b.example'], alarmAfter: 2h}}\n"
    job = compiled(anchors, "ots:pool")["ots:pool"]
    assert command(job).argv[-1] == "ots"
    rail = rail_entry.ots_rail(facts(job))
    assert ([each.http().host for each in rail.calendars], rail.need, rail.alarm_after_s) == (
        ["a.example", "b.example"],
        2,
        7_200,
    )


def test_a_missing_extra_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors_file, "find_spec", lambda name: None)
    (problem,) = problems(BOTH, "rfc3161:tsa")
    assert "needs a package that is not installed: pip install 'vmsh-scheduler[tsa]'" in problem
    assert problem.startswith("namespaces.yaml:")
    assert compiled("btc: {default: {rpcUrl: 'http://x'}}\n", "btc:mainnet")


def test_a_broken_file_is_not_blamed_on_every_cadence() -> None:
    found = problems("rfc3161: {default: {ulr: x}}\n", "rfc3161:a", "rfc3161:b")
    assert len(found) == 1
    assert "did you mean `url`" in found[0]


def test_the_shipped_file_is_fine_and_unused() -> None:
    shipped = (Path(__file__).parents[2] / "config/anchors.yaml").read_text()
    assert command(compiled(shipped)["rfc3161:tsa"]).payload["railName"] == "default"
    assert problems(shipped, "eip155:1")[0].startswith("anchors.yaml:")


def test_what_is_wrong_with_cadences_is_not_said_of_agents_too() -> None:
    raw = {
        "namespaces": b'namespaces: {ns: {cadence: {fast: {every: 1h, target: "eip155:1"}}}}\n',
        "agents": b"agents: []\n",
    }
    with pytest.raises(ConfigError) as refused:
        compile_files(Files(raw), wanted({}), {})
    assert len(refused.value.problems) == 1
