"""`vmsh-scheduler agents ...` and the agents of `status`, against a running daemon."""

import shlex

import pytest

from tests.support.daemon import Place, until
from tests.support.forge import WALLET, Forge, Stub, forge

REGISTER = ("agents", "register", "alpha", "--wallet", WALLET, "--user", "ann")
FILE = f"agents: [{{agentId: filed, userId: ann, walletAddress: '{WALLET}', callback: {{command: ['true']}}}}]\n"


@pytest.fixture
def api(place: Place, upstream: Stub) -> Forge:
    return forge(place, upstream)


def test_a_registered_agent_is_woken(place: Place, api: Forge, consumer: Stub) -> None:
    done = place.cli(
        *REGISTER, "--every", "1s", "--callback", consumer.url, "--name", "Alpha", "--strategy", "dca"
    ).ok()
    assert done.out.startswith("ann:alpha: registered, RUNNING, first cycle at 20")
    posted = until(lambda: consumer.received[:1], "a cycle")[0]
    assert posted.headers["X-ForgeOS-Agent-Key"] == "ann:alpha"
    agent = posted.json["agent"]
    assert (agent["name"], agent["strategyLabel"], agent["cycleIntervalMs"]) == ("Alpha", "dca", 1000)
    until(lambda: api.agent("alpha")["lastCycleAt"], "its outcome")
    (row,) = place.cli("agents", "list", "--json").ok().json["agents"]
    assert (row["id"], row["userId"], row["failureCount"], row["source"]) == ("alpha", "ann", 0, "api")
    assert "callbackUrl" not in str(row)
    table = place.cli("agents", "list").ok().out.splitlines()
    assert table[1].split()[:5] == ["ann:alpha", "kaspa:qpv7fcvdlz6th4h...", "1.0s", "running", table[1].split()[4]]
    place.cli("agents", "remove", "alpha", "--user", "ann").ok()
    assert "_agents/ann/alpha" in place.cli("history", "_agents/ann/alpha").ok().out
    api.daemon.stop()


def test_pause_resume_remove(place: Place, api: Forge) -> None:
    place.cli(*REGISTER).ok()
    assert place.cli("agents", "pause", "alpha", "--user", "ann").ok().out == "ann:alpha: paused\n"
    assert api.agent("alpha")["status"] == "PAUSED"
    resumed = place.cli("agents", "resume", "alpha", "--user", "ann", "--json").ok().json
    assert (resumed["action"], resumed["agent"]["status"]) == ("resume", "RUNNING")
    assert place.cli("agents", "remove", "alpha", "--user", "ann").ok().out == "ann:alpha: removed\n"
    assert api.agent("alpha") is None


def test_one_that_is_paused_is_resumed_as_it_says(place: Place, api: Forge) -> None:
    api.register(id="-a b", status="PAUSED")
    job = "_agents/user-123/-a b"
    told = place.cli("why", job, "--json").ok().json
    assert (told["reason"], told["text"]) == ("disabled", "its agent is paused, until `agents resume`")
    assert "its agent is paused, until `agents resume`" in place.cli("status", "--agents").ok().out
    refused = place.cli("trigger", job)
    assert refused.code == 2
    assert refused.err == f"vmsh-scheduler: the agent of {job} is paused; first: {told['remedy']}\n"
    place.cli(*shlex.split(told["remedy"])[1:]).ok()
    assert api.agent("-a b")["status"] == "RUNNING"


def test_one_of_a_file_is_switched_on_there(place: Place) -> None:
    place.configure("namespaces: {}\n", agents=FILE.replace("{agentId", "{status: PAUSED, agentId"))
    told = place.cli("why", "_agents/ann/filed", "--json").ok().json
    assert (told["text"], told["remedy"][:19]) == ("it is switched off in its file", "set status: RUNNING")
    refused = place.cli("trigger", "_agents/ann/filed")
    assert (refused.code, refused.err.partition("; ")[2]) == (2, "switch it on there first\n")


def test_registered_again_it_is_replaced(place: Place, api: Forge) -> None:
    place.cli(*REGISTER).ok()
    again = place.cli(*REGISTER, "--every", "5m", "--paused").ok()
    assert again.out == "ann:alpha: replaced, PAUSED\n"
    assert api.agent("alpha")["cycleIntervalMs"] == 300_000


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("agents", "pause", "alpha"), 1, "no agent anon:alpha; `vmsh-scheduler agents list` shows every agent"),
        (("agents", "register", "x", "--wallet", "btc:1"), 2, "begins with kaspa: or kaspatest:"),
        (("agents", "register", "", "--wallet", WALLET), 2, "an agent needs an id"),
        (("agents", "register", "x" * 121, "--wallet", WALLET), 2, "at most 120 characters"),
        (("agents", "register", "x", "--wallet", WALLET, "--user", ""), 2, "a user's id has 1 to 120 characters"),
        (("agents", "register", "x", "--wallet", WALLET, "--every", "15"), 2, "--every: not a length of time"),
        (("agents", "register", "x", "--wallet", WALLET, "--callback", "file:///etc"), 2, "does not begin with http"),
        (("agents", "register", "x"), 2, "--wallet"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(place: Place, api: Forge, args: tuple[str, ...], code: int, said: str) -> None:
    place.cli(*REGISTER).ok()
    done = place.cli(*args)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert [agent["id"] for agent in api.get("/v1/agents")["agents"]] == ["alpha"]


def test_the_most_agents_there_may_be(place: Place, upstream: Stub) -> None:
    forge(place, upstream, SCHEDULER_MAX_AGENTS="1")
    place.cli(*REGISTER).ok()
    refused = place.cli("agents", "register", "beta", "--wallet", WALLET)
    assert refused.code == 2
    assert "as many agents are registered as may be (of all users 1); raise SCHEDULER_MAX_AGENTS" in refused.err


@pytest.mark.parametrize("action", ["register", "pause", "resume", "remove"])
def test_an_agent_of_a_file_is_changed_there(place: Place, upstream: Stub, action: str) -> None:
    place.write("config/agents.yaml", FILE)
    forge(place, upstream)
    more = ("--wallet", WALLET) if action == "register" else ()
    refused = place.cli("agents", action, "filed", "--user", "ann", *more)
    assert refused.code == 2
    assert "_agents/ann/filed stands in config/agents.yaml; change it there" in refused.err
    (row,) = place.cli("agents", "list", "--json").ok().json["agents"]
    assert (row["id"], row["source"]) == ("filed", "config/agents.yaml")


def test_the_api_is_off(place: Place) -> None:
    place.write("config/agents.yaml", FILE)
    place.configure("namespaces: {}\n")
    place.daemon().ready()
    for args in (("agents", "list"), REGISTER):
        off = place.cli(*args)
        assert (off.code, off.out) == (2, "")
        assert "the API is off" in off.err
        assert "set PORT=8790, or `api: {}` in scheduler.yaml, and start the daemon again" in off.err


def test_no_daemon(place: Place) -> None:
    none = place.cli("agents", "list")
    assert none.code == 69
    assert "start one with `vmsh-scheduler run`" in none.err


def test_status_counts_agents_and_names_those_that_fail(place: Place, api: Forge, consumer: Stub) -> None:
    consumer.status = 500
    place.cli(*REGISTER, "--every", "1s", "--callback", consumer.url).ok()
    place.cli("agents", "register", "idle", "--wallet", WALLET, "--paused").ok()
    until(lambda: api.agent("alpha")["failureCount"], "a failure")
    status = place.cli("status").ok().out
    assert "agents: 1 running, 1 paused, 1 failing: ann:alpha\n" in status.replace(" \n", "\n")
    assert "_agents/ann/alpha" in status
    told = place.cli("status", "--json").ok().json["agents"]
    assert told == {"count": 2, "running": 1, "paused": 1, "failing": ["ann:alpha"]}


def test_status_has_a_row_for_each_of_many_agents_only_if_asked(place: Place, api: Forge) -> None:
    for number in range(11):
        api.register(id=f"agent-{number}", cycleIntervalMs=60_000)
    few = place.cli("status").ok().out
    assert "agents: 11 running, 0 paused" in few
    assert "_agents/" not in few
    assert place.cli("status", "--agents").ok().out.count("_agents/user-123/agent-") == 11
