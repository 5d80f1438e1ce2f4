"""`vmsh-scheduler redis check|reset`, and what the other commands show and refuse where the state is in Redis."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Place, until
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer, free_port, serving

HOURLY = """namespaces:
  ns:
    cadence:
      fast: {target: "local:t", every: 1h, command: ["true"], reanchor: true, env: {VMSH_KEYS: keys}}
"""
FENCE = "forgeos:scheduler:leader_fence"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as server:
        yield server


@pytest.fixture
def cluster(redis: RedisServer, cluster: Instances) -> Instances:
    with redis.client() as client:
        client.flushall()
    cluster.namespaces, cluster.together = HOURLY, True
    return cluster


@pytest.fixture
def away(tmp_path: Path, redis: RedisServer) -> Place:
    """A machine that has the settings, and no daemon."""
    with redis.client() as client:
        client.flushall()
    made = Place(tmp_path / "away")
    made.configure(HOURLY)
    made.environ["SCHEDULER_REDIS_URL"] = redis.url
    return made


def test_check_shows_who_leads_who_is_there_and_what_waits(cluster: Instances, away: Place) -> None:
    cluster.start("a", "b")
    leader = cluster.leader()
    cluster[leader].register(id="one", cycleIntervalMs=3_600_000)
    until(lambda: away.cli("redis", "check", "--json").json["jobs"] == 2, "both jobs")
    view = away.cli("redis", "check", "--json").ok().json
    assert (view["leader"]["instance"], view["findings"], view["agents"]) == (leader, [], 1)
    assert view["fence"] == cluster.condition(leader)["fence"]
    assert [row["id"] for row in view["instances"]] == ["a", "b"]
    assert view["queues"] == {name: {"ready": 0, "running": 0} for name in ("agents", "commands")}
    text = away.cli("redis", "check").ok().out
    for words in (
        f"leader: {leader}, fence {view['fence']}",
        "2 jobs, 1 registered agents",
        "agents 0 ready 0 running",
    ):
        assert words in text
    assert cluster.place(leader).cli("status").ok().out.count("Redis at 127.0.0.1") == 1


def test_status_shows_leader_fence_instances_and_depths(cluster: Instances) -> None:
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    until(lambda: cluster.condition(follower)["leader"] == leader, "the follower to see it")
    view = cluster.place(follower).cli("status", "--json").ok().json["cluster"]
    assert (view["instance"], view["role"], view["leader"]) == (follower, "follower", leader)
    assert view["queues"] == {name: {"ready": 0, "running": 0} for name in ("agents", "commands")}
    out = cluster.place(follower).cli("status").ok().out
    assert f"this is {follower} (follower)" in out
    assert f"leader: {leader}, fence {view['fence']}; agents 0 ready 0 running" in out
    for name in ("a", "b"):
        assert any(line.split()[:1] == [name] and "the same" in line for line in out.splitlines())


def test_check_fails_with_findings_without_an_answer_and_without_a_redis(away: Place, tmp_path: Path) -> None:
    with serving(tmp_path / "loose") as loose:
        found = away.cli("redis", "check", "--json", env={"SCHEDULER_REDIS_URL": loose.url})
        assert (found.code, [line.partition(":")[0] for line in found.json["findings"]]) == (1, ["appendonly is no"])
    nobody = away.cli("redis", "check", env={"SCHEDULER_REDIS_URL": f"redis://127.0.0.1:{free_port()}"})
    assert (nobody.code, nobody.out) == (69, "")
    assert "nothing listens there" in nobody.err
    none = away.cli("redis", "check", env={"SCHEDULER_REDIS_URL": ""})
    assert none.code == 2
    assert "no Redis is configured" in none.err
    bad = away.cli("redis", "check", env={"SCHEDULER_REDIS_URL": "redis://u:canary-redis-0002@h:port"})
    assert bad.code == 78
    assert "canary-redis-0002" not in bad.out + bad.err


def test_reset_needs_to_be_meant_and_the_lock_and_leaves_the_fence(cluster: Instances, away: Place) -> None:
    cluster.start("a")
    cluster.leader()
    cluster["a"].register(id="one", cycleIntervalMs=3_600_000)
    fence = cluster.condition("a")["fence"]
    unsure = away.cli("redis", "reset")
    assert unsure.code == 2
    assert "--yes" in unsure.err
    busy = away.cli("redis", "reset", "--yes")
    assert busy.code == 75
    assert "an instance leads (a)" in busy.err
    cluster["a"].daemon.stop()
    gone = away.cli("redis", "reset", "--yes", "--json").ok().json["keys"]
    assert gone > 3
    with cluster.redis.client() as client:
        assert client.keys("*") == [FENCE]
        assert int(client.get(FENCE) or 0) > fence
    assert away.cli("redis", "reset", "--yes").ok().out == "0 keys are gone\n"
    nobody = away.cli("redis", "reset", "--yes", env={"SCHEDULER_REDIS_URL": f"redis://127.0.0.1:{free_port()}"})
    assert nobody.code == 69


def test_d19_reset_leaves_no_key_of_ours_and_none_that_is_not(away: Place, redis: RedisServer) -> None:
    """The original's reset deletes one key of five, under a leader that works."""
    with redis.client() as client:
        for name in ("cycle_queue", "cycle_queue_processing"):
            client.rpush(f"forgeos:scheduler:{name}", "t")
        client.zadd("forgeos:scheduler:cycle_queue_inflight", {"t": 1})
        client.hset("forgeos:scheduler:cycle_queue_payloads", "t", "{}")
        client.hset("forgeos:scheduler:cycle_queue_task_owners", "t", "u:a")
        client.set("forgeos:scheduler2:other", "1")
        client.set("forgeos:schedulerX", "1")
        assert away.cli("redis", "reset", "--yes").ok().out == "5 keys are gone\n"
        assert set(client.keys("*")) == {FENCE, "forgeos:scheduler2:other", "forgeos:schedulerX"}
    refused = away.cli("run", env={"SCHEDULER_REDIS_RESET_EXEC_QUEUE_ON_BOOT": "true"})
    assert refused.code == 78
    assert "redis reset --yes" in refused.err


NESTED = [
    ("forgeos:scheduler", "forgeos:scheduler:staging"),
    ("{vmsh}", "{vmsh}:staging"),
    ("p", "p:journal"),
    ("p", "p:lease:u"),
    ("p", "p:exec_lease"),
]


@pytest.mark.parametrize(("prefix", "below"), NESTED, ids=[below for _, below in NESTED])
def test_reset_touches_no_deployment_whose_prefix_begins_alike(
    cluster: Instances, away: Place, prefix: str, below: str
) -> None:
    """It may be called like a family of ours: then a name alone tells nothing."""
    cluster.env = {"SCHEDULER_REDIS_PREFIX": below}
    cluster.start("a")
    cluster.leader()
    cluster["a"].register(id="one", cycleIntervalMs=3_600_000)
    cluster["a"].register(id="leader_fence", cycleIntervalMs=1_000)
    with cluster.redis.client() as client:
        ours = [f"{prefix}:{name}" for name in ("states", "journal:a:b/c", "reply:" + "0" * 32, "cycle_queue")]
        for key in ours:
            client.set(key, "{}")
        client.hset(f"{prefix}:journal_heads", "a:b/c", "1 0")
        ours.append(f"{prefix}:journal_heads")
        client.set(f"{prefix}:not-known", "1")
        settled = f"{below}:journal:_agents/anon/one"
        settled = f"{below}:journal:_agents/user-123/leader_fence"
        until(lambda: client.exists(settled, f"{below}:specs:agent") == 2, "what a cycle leaves")
        lasting = {key for key in client.keys(f"{below}:*") if client.pttl(key) == -1}
        theirs = {*lasting, f"{below}:leader_lock"}.difference(ours)
        assert len(theirs) > 8
        done = away.cli("redis", "reset", "--yes", "--json", env={"SCHEDULER_REDIS_PREFIX": prefix}).ok().json
        assert done["keys"] == len(ours)
        assert done["left"] >= len(theirs) + 1
        assert client.exists(*ours) == 0
        assert theirs <= set(client.keys(f"{below}:*"))
        assert client.exists(f"{prefix}:not-known") == 1
    assert cluster.condition("a")["problems"] == []
    said = away.cli("redis", "reset", "--yes", env={"SCHEDULER_REDIS_PREFIX": prefix}).ok().out
    assert "not of this prefix, and stay" in said


def test_a_lock_without_an_end_is_a_finding_and_both_say_how_to_get_out(away: Place, redis: RedisServer) -> None:
    lock = "forgeos:scheduler:leader_lock"
    with redis.client() as client:
        client.set(lock, "a:1|7|a", px=60_000)
        assert away.cli("redis", "check", "--json").ok().json["findings"] == []
        client.persist(lock)
        check, reset = away.cli("redis", "check", "--json"), away.cli("redis", "reset", "--yes")
        assert (check.code, reset.code) == (1, 75)
        (finding,) = check.json["findings"]
        assert f"redis-cli DEL {lock}" in finding
        assert finding in reset.err
        client.delete(lock)
    away.cli("redis", "check").ok()
    away.cli("redis", "reset", "--yes").ok()


def test_settings_of_redis_that_cannot_be_are_refused_by_their_names(away: Place, redis: RedisServer) -> None:
    here = f"redis://:canary-redis-0003@127.0.0.1:{redis.port}"
    absent = str(away.root / "absent")
    for variable, value, why in (
        ("SCHEDULER_REDIS_URL", f"{here}/-1", "the database in the Redis URL is no number from 0 up"),
        ("SCHEDULER_REDIS_URL", f"{here}/99999999999", "the database in the Redis URL is no number from 0 up"),
        ("SCHEDULER_REDIS_URL", "redis://:canary-redis-0003@ho st", "white space or a control character"),
        ("SCHEDULER_REDIS_URL", "redis://:canary-redis-0003@h%00", "white space or a control character"),
        ("SCHEDULER_REDIS_PREFIX", "{", "a word in braces"),
        ("SCHEDULER_REDIS_PREFIX", "{}vmsh", "a word in braces"),
        ("SCHEDULER_REDIS_PREFIX", "vmsh}{x", "a word in braces"),
    ):
        for words in (("validate-config",), ("run",), ("redis", "check")):
            done = away.cli(*words, env={variable: value})
            assert (done.code, "Traceback" in done.err) == (78, False), (words, done)
            assert f"{variable}: " in done.err + done.out, (words, done)
            assert why in done.err + done.out
            assert "canary-redis-0003" not in done.err + done.out
    away.cli("validate-config", env={"SCHEDULER_REDIS_PREFIX": "{vmsh}:a{b}"}).ok()
    for name in ("password_file", "tls_ca", "tls_cert", "tls_key"):
        away.write("config/scheduler.yaml", f"redis:\n  {name}: {absent}\n")
        for words in (("validate-config",), ("run",)):
            done = away.cli(*words)
            assert done.code == 78, (words, done)
            assert f"redis.{name}: {absent} cannot be read: No such file or directory" in done.err + done.out
    away.write("config/scheduler.yaml", f"redis:\n  password_file: {away.root}\n")
    assert "is a directory" in away.cli("validate-config").err


@pytest.mark.parametrize(
    "words",
    [("status",), ("next",), ("why", "ns/fast"), ("history",), ("tick",), ("pause", "ns/fast"), ("trigger", "ns/fast")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_without_a_daemon_nothing_is_shown_or_changed_that_is_not_on_this_disk(
    away: Place, words: tuple[str, ...]
) -> None:
    done = away.cli(*words)
    assert (done.code, done.out) == (69, "")
    assert "the state is in Redis and no daemon runs here" in done.err
    assert "Traceback" not in done.err
    assert not away.state.exists()


def test_history_is_verified_where_it_is(cluster: Instances, away: Place) -> None:
    cluster.start("a")
    cluster.leader()
    place = cluster.place("a")
    place.cli("trigger", "ns/fast").ok()
    until(lambda: place.cli("history", "ns/fast", "--json").json["decisions"], "a decision")
    assert away.cli("history", "--verify").ok().out == "every hash chain is intact\n"
    with cluster.redis.client() as client:
        client.hset("forgeos:scheduler:journal_heads", "ns/fast", json.dumps({"forged": 1}))
    broken = away.cli("history", "--verify", "--json")
    assert (broken.code, broken.json["ok"]) == (1, False)


def test_doctor_and_validate_config_know_of_it(away: Place, redis: RedisServer) -> None:
    rows = {row["kind"]: row for row in away.cli("doctor", "--json").json}
    assert (rows["redis"]["ok"], rows["redis"]["detail"].partition(",")[2]) == (True, " 0 instances")
    dead = {"SCHEDULER_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    rows = {row["kind"]: row for row in away.cli("doctor", "--json", env=dead).json}
    assert (rows["redis"]["ok"], "nothing listens there" in rows["redis"]["detail"]) == (False, True)
    away.cli("validate-config").ok()
    assert "redis" in away.cli("config", "show").ok().out
    for env, named in (
        ({"SCHEDULER_REDIS_AUTHORITATIVE_QUEUE": "false"}, "AUTHORITATIVE_QUEUE"),
        ({"SCHEDULER_REDIS_URL": "http://h"}, "REDIS_URL"),
    ):
        refused = away.cli("validate-config", env=env)
        assert refused.code == 78, refused
        assert named in refused.err + refused.out


def test_without_the_extra_it_says_what_to_install(away: Place) -> None:
    away.write("without/redis/__init__.py", "raise ImportError('No module named redis')\n")
    env = {"PYTHONPATH": str(away.root / "without")}
    for words in (("run",), ("redis", "check"), ("validate-config",)):
        done = away.cli(*words, env=env)
        assert done.code == 78, (words, done)
        assert "pip install 'vmsh-scheduler[redis]'" in done.err + done.out
        assert "Traceback" not in done.err
