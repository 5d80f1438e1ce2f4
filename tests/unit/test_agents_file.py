"""agents.yaml -> jobs, and everything that is refused, at its place."""

import pytest

from tests.support.config import ROOT, agent, job_set, problems
from vmsh_scheduler.domain.action import Callback, Command
from vmsh_scheduler.domain.agents import job_id as agent_job_id
from vmsh_scheduler.domain.agents import named
from vmsh_scheduler.domain.retry import FlatRetry
from vmsh_scheduler.domain.trigger import Interval, Since

ONE = "agents:\n  - agentId: a1\n    walletAddress: kaspa:qq0\n    callback: {command: [wake]}\n"


def test_every_field_of_an_agent() -> None:
    (job,) = job_set(
        agents="""
        agents:
          - agentId: a1
            userId: u1
            name: My agent
            walletAddress: " KaspaTest:QQ0 "
            strategyLabel: DCA
            cycleIntervalMs: 2000
            status: PAUSED
            callback: {command: [wake, up], timeout: 3s, env: {A: b}, cwd: agents, pass_env: [T], grace: 1s}
        """
    ).jobs.values()
    assert (job.id, job.name, job.enabled) == ("_agents/u1/a1", "My agent", False)
    assert job.labels == {"user": "u1", "agent": "a1"}
    assert job.trigger == Interval(2_000, Since.FINISH)
    assert (job.policy.retry, job.policy.timeout) == (FlatRetry(2_000), 3_000)
    assert isinstance(job.action, Command)
    assert job.action.argv == ("wake", "up")
    assert (job.action.env, job.action.pass_env) == ({"A": "b"}, ("T",))
    assert (job.action.cwd, job.action.grace) == (str(ROOT / "agents"), 1_000)
    assert job.action.payload["agent"] == {
        "id": "a1",
        "userId": "u1",
        "name": "My agent",
        "strategyLabel": "DCA",
        "cycleIntervalMs": 2_000,
        "walletAddress": "kaspatest:qq0",
    }


def test_a_callback_url_is_an_http_post() -> None:
    job = agent(callback="{url: 'https://example.com/cycle?x=1', timeout: 4s}")
    assert isinstance(job.action, Callback)
    assert job.action.url == "https://example.com/cycle?x=1"
    assert job.action.payload["event"] == "forgeos.scheduler.cycle"
    assert list(job.action.payload["agent"]) == ["id", "userId", "name", "strategyLabel", "cycleIntervalMs"]  # type: ignore[call-overload]  # a JSON value
    assert (job.action.user, job.action.agent, job.action.wallet) == ("anon", "a1", "kaspa:qq0")
    assert job.action.trusted
    assert (job.pool, job.host) == ("agents", "example.com")
    assert "x=1" not in repr(job.action)
    assert job.policy.timeout == 4_000


def test_an_interval_below_the_floor_is_raised_and_said() -> None:
    found = job_set(agents=ONE + "    cycleIntervalMs: 200\n")
    (job,) = found.jobs.values()
    assert job.trigger == Interval(1_000, Since.FINISH)
    assert job.policy.retry == FlatRetry(1_000)
    (warning,) = found.warnings
    assert warning == "agents.yaml:5:22: agents[0].cycleIntervalMs: is raised to 1000, the shortest there is"


@pytest.mark.parametrize("text", ["agents: []\n", "# nothing yet\n"])
def test_no_agent_at_all_is_allowed(text: str) -> None:
    assert job_set(agents=text).jobs == {}


def test_the_same_agent_of_two_users_is_two() -> None:
    two = ONE + ONE.removeprefix("agents:\n") + "    userId: u2\n"
    assert set(job_set(agents=two).jobs) == {"_agents/anon/a1", "_agents/u2/a1"}


def test_no_id_of_a_file_is_that_of_another_agent() -> None:
    """`%2F` in a file is three characters, and over the API the slash of `a/b` is written so."""
    ids = ["a%2Fb", "a%252Fb", "a%b", "ab"]
    listed = "".join(ONE.removeprefix("agents:\n").replace("a1", f"'{id}'") for id in ids)
    jobs = job_set(agents="agents:\n" + listed).jobs
    assert [named(job_id) for job_id in jobs] == [("anon", id) for id in ids]
    assert [job.lane for job in jobs.values()] == list(jobs)
    assert agent_job_id("anon", "a/b") not in jobs


def test_the_same_agent_twice_is_refused_at_the_second() -> None:
    two = ONE + ONE.removeprefix("agents:\n") + "    userId: anon\n"
    (problem,) = problems(agents=two)
    assert problem.startswith("agents.yaml:5:14: agents[1].agentId: ")
    assert "agents[0]" in problem


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cycleIntervalMs: 0", "cycleIntervalMs"),
        ("cycleIntervalMs: 15s", "cycleIntervalMs"),
        ("cycleIntervalMs: 1.5", "cycleIntervalMs"),
        ("status: paused", "status"),
        ("userId: a/b", "userId: `/`"),
        ("userId: ''", "userId"),
        (f"userId: {'u' * 121}", "longer than 120"),
        ("userId: 12", "userId"),
        ("nmae: x", "did you mean"),
    ],
)
def test_a_bad_field_is_refused(line: str, message: str) -> None:
    (problem,) = problems(agents=f"{ONE}    {line}\n")
    assert problem.startswith("agents.yaml:5:")
    assert message in problem


@pytest.mark.parametrize("wallet", ["'kaspa:'", "kaspadev:qq", "qq0", "'kaspa:a b'", "5"])
def test_a_wallet_is_a_kaspa_address(wallet: str) -> None:
    (problem,) = problems(agents=ONE.replace("kaspa:qq0", wallet))
    assert problem.startswith("agents.yaml:3:20: agents[0].walletAddress: ")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("{}", "either `command` or `url`: has neither"),
        ("{command: [a], url: 'http://x/'}", "either `command` or `url`: not both"),
        ("{url: 'http://x/', env: {A: b}}", "callback.env: belongs to `command`"),
        ("{url: 'ftp://x/'}", "callback.url: not a URL"),
        ("{url: 'http://user:hunter2@x/'}", "callback.url: not a URL"),
        ("{url: 'http://'}", "callback.url: not a URL"),
        ("{command: wake}", "callback.command"),
    ],
)
def test_a_callback_is_one_of_two_kinds(callback: str, message: str) -> None:
    (problem,) = problems(agents=ONE.replace("{command: [wake]}", callback))
    assert message in problem
    assert "hunter2" not in problem
