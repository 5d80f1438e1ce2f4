"""Values that somebody wrote into Redis by hand: no daemon ends, one job's damage is one job's, and it is named."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.daemon import until
from tests.support.forge import WALLET, Stub
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer

P = "forgeos:scheduler:"
STATES, SPECS, HEADS, META = f"{P}states", f"{P}specs:agent", f"{P}journal_heads", f"{P}meta"
DEEP = "[" * 100_000
FAR = "99999999999999"
NO_DOCUMENT = '{"document":{},"version":1,"created_at":1,"updated_at":1,"by":"x"}'
Plant = Callable[[Any], object]


@pytest.fixture
def redis(durable: RedisServer) -> RedisServer:
    return durable.start()


def soon(client: Any, words: str) -> str:
    """What an instance says of itself, for as long as it may."""
    return f"{client.time()[0] * 1000 + 4_000} {words}"


def entry(words: str) -> Plant:
    return lambda client: client.hset(f"{P}instances", "phantom", soon(client, words))


def request(words: str) -> Plant:
    return lambda client: client.rpush(f"{P}requests", words)


def task(text: str | bytes) -> Plant:
    def plant(client: Any) -> None:
        id = f"junk-{text[:20]!r}"
        client.hset(f"{P}cycle_queue_payloads", id, text)
        client.rpush(f"{P}cycle_queue", id)

    return plant


def asking(**request: object) -> str:
    return f"{FAR} {json.dumps(request)}"


UNHEEDED: dict[str, Plant] = {
    "an instance that is no JSON": entry("notjson"),
    "an instance that is a list": entry("[]"),
    "an instance with permits of words": entry('{"permits":{"":"many"}}'),
    "an instance that is endless": lambda client: client.hset(f"{P}instances", "z", f"{FAR} notjson"),
    "an instance with a fence that is infinite": entry('{"fence":1e999}'),
    "an instance that is not UTF-8": lambda client: client.hset(f"{P}instances", b"\xff", b"\xff\xfe"),
    "a request that is no JSON": request(f"{FAR} notjson"),
    "a request that is empty": request(f"{FAR} {{}}"),
    "a request without its time": request("junk"),
    "a request with a time of letters": request("abc def"),
    "a request nested deeply": request(f"{FAR} {DEEP}"),
    "a request of an infinite time": lambda client: client.rpush(
        f"{P}requests", f'{FAR} {{"id":"1","verb":"pause","document":{{"by":"x","job":"y","note":"","until":1e999}}}}'
    ),
    "requests of the wrong shape": lambda client: client.rpush(
        f"{P}requests", *(asking(id="1", verb=verb, document=[1]) for verb in ("pause", 5, None, ["x"]))
    ),
    "a task nested deeply": task(DEEP),
    "a task that is not UTF-8": task(b"\xff"),
    "a task of an agent without words": task('{"queueKey":"user-123:one","vmsh":{"agent":{"id":"x"}}}'),
    "a task that is the original's, of no time": task(f'{{"queueKey":"user-123:one","enqueuedAt":{10**40}}}'),
    "an outcome nested deeply": lambda client: client.hset(f"{P}outcomes", "zz", DEEP),
    "a record of an agent nested deeply": lambda client: client.hset(f"{P}agents", "x:y", DEEP),
    "a fence that is no number, while somebody leads": lambda client: client.set(f"{P}leader_fence", "abc"),
    "a store's name that is not UTF-8": lambda client: client.publish(f"{P}wake", b"\xff"),
}


def alive_and_well(cluster: Instances, consumer: Stub) -> None:
    """Every daemon lives, none has met a defect of ours, and cycles go on."""
    before = len(consumer.received)
    until(lambda: len(consumer.received) >= before + 3, "cycles")
    for name, each in cluster.started.items():
        assert each.daemon.alive, (name, each.daemon.text()[-2_000:])
        assert "Traceback" not in each.daemon.text()


def started(cluster: Instances, consumer: Stub, *names: str) -> None:
    cluster.start(*names)
    for id in ("one", "two"):
        cluster[names[0]].register(id=id, cycleIntervalMs=1_000, callbackUrl=f"{consumer.url}/{id}")
    until(lambda: consumer.at("/one") and consumer.at("/two"), "cycles of both")


def refused(cluster: Instances, name: str) -> bool:
    body = {"id": "one", "walletAddress": WALLET}
    return cluster[name].ask("POST", "/v1/agents/register", body, X_User_Id="user-123").status == 503


def begin_anew(cluster: Instances, *names: str) -> None:
    for name in names:
        cluster[name].daemon.kill()
    cluster.start(*names)
    cluster.leader()


def test_what_nobody_waits_for_is_left_out_and_said_once(cluster: Instances, consumer: Stub) -> None:
    started(cluster, consumer, "a", "b")
    with cluster.redis.client() as client:
        for name, plant in UNHEEDED.items():
            plant(client)
            assert all(each.daemon.alive for each in cluster.started.values()), name
        until(lambda: not client.llen(f"{P}requests"), "the requests to be gone")
        until(lambda: not any("junk" in id for id in client.hkeys(f"{P}cycle_queue_payloads")), "the tasks to be gone")
    alive_and_well(cluster, consumer)
    told = "".join(each.daemon.text() for each in cluster.started.values())
    for what in ("'phantom' of instances", "an entry of requests", "the task"):
        assert what in told
    assert told.count("the entry 'phantom' of instances cannot be read") <= len(cluster.started)
    begin_anew(cluster, "a", "b")
    alive_and_well(cluster, consumer)


def test_a_phantom_takes_no_permits(cluster: Instances, consumer: Stub) -> None:
    started(cluster, consumer, "a")
    with cluster.redis.client() as client:
        less = '{"id":"z","permits":{"":-1000,"agents":-1000}}'
        client.hset(f"{P}instances", mapping={"near": soon(client, less), "endless": f"{FAR} {less}"})
        alive_and_well(cluster, consumer)
        until(lambda: client.hkeys(f"{P}instances") == ["a"], "both to be gone")


def harm_state(client: Any, id: str, text: str) -> None:
    client.hset(STATES, f"_agents/user-123/{id}", text)


@pytest.mark.parametrize("text", [b"\xff"])
def test_one_state_that_cannot_be_read_keeps_one_job_back(cluster: Instances, consumer: Stub, text: str) -> None:
    started(cluster, consumer, "a")
    cluster["a"].daemon.kill()
    with cluster.redis.client() as client:
        whole = client.hget(STATES, "_agents/user-123/one")
        harm_state(client, "one", text)
        cluster.start("a")
        until(lambda: "unreadable" in cluster.condition("a")["problems"], "the problem")
        before = len(consumer.at("/one"))
        alive_and_well(cluster, consumer)
        assert len(consumer.at("/one")) == before
        checked = cluster.place("a").cli("redis", "check", env={"SCHEDULER_REDIS_URL": cluster.redis.url})
        assert (checked.code, "Traceback" in checked.out + checked.err) == (1, False)
        assert f"the field '_agents/user-123/one' of {STATES} cannot be read" in " ".join(checked.out.split())
        assert f"the field '_agents/user-123/one' of {STATES}" in cluster["a"].daemon.text()
        client.hset(STATES, "_agents/user-123/one", whole)
    begin_anew(cluster, "a")
    until(lambda: len(consumer.at("/one")) > before, "its cycles")
    assert "unreadable" not in cluster.condition("a")["problems"]


def test_an_agent_whose_state_cannot_be_read_may_be_registered_anew(cluster: Instances, consumer: Stub) -> None:
    started(cluster, consumer, "a")
    cluster["a"].daemon.kill()
    with cluster.redis.client() as client:
        harm_state(client, "one", "junk")
    cluster.start("a")
    cluster.leader()
    before = len(consumer.at("/one"))
    cluster["a"].register(id="one", cycleIntervalMs=1_000, callbackUrl=f"{consumer.url}/one")
    until(lambda: len(consumer.at("/one")) > before, "its cycles")
    assert "unreadable" not in cluster.condition("a")["problems"]


@pytest.mark.parametrize("text", [NO_DOCUMENT])
def test_one_document_that_cannot_be_read_keeps_one_agent_back(cluster: Instances, consumer: Stub, text: str) -> None:
    """While both run; put right it runs again by itself."""
    started(cluster, consumer, "a", "b")
    with cluster.redis.client() as client:
        whole = client.hget(SPECS, "_agents/user-123/one")
        client.hset(SPECS, "_agents/user-123/one", text)
        client.incr(f"{P}specs_version")
        until(lambda: "unreadable" in cluster.condition(cluster.leader())["problems"], "the problem")
        alive_and_well(cluster, consumer)
        assert refused(cluster, cluster.leader())
        client.hset(SPECS, "_agents/user-123/one", whole)
        client.incr(f"{P}specs_version")
    before = len(consumer.at("/one"))
    until(lambda: len(consumer.at("/one")) > before, "its cycles")
    until(lambda: "unreadable" not in cluster.condition(cluster.leader())["problems"], "the end of it")


def test_one_chain_that_cannot_be_read_keeps_one_job_back(cluster: Instances, consumer: Stub) -> None:
    started(cluster, consumer, "a")
    cluster["a"].daemon.kill()
    with cluster.redis.client() as client:
        client.hset(HEADS, "_agents/user-123/one", "junk")
    cluster.start("a")
    until(lambda: "unreadable" in cluster.condition("a")["problems"], "the problem")
    alive_and_well(cluster, consumer)
    assert refused(cluster, "a")
    alive_and_well(cluster, consumer)


@pytest.mark.parametrize(
    ("plant", "key", "way_out"),
    [
        (
            lambda client: client.hset(META, "writes", "abc"),
            META,
            lambda client: client.hset(META, "writes", int(time.time())),
        ),
        (
            lambda client: client.set(f"{P}specs_version", "abc"),
            f"{P}specs_version",
            lambda client: client.set(f"{P}specs_version", int(time.time())),
        ),
    ],
)
def test_a_counter_that_is_none_is_named_and_its_way_out_needs_no_restart(
    cluster: Instances, consumer: Stub, plant: Plant, key: str, way_out: Plant
) -> None:
    started(cluster, consumer, "a", "b")
    leader = cluster.leader()
    with cluster.redis.client() as client:
        plant(client)
        cluster[leader].daemon.kill()
        cluster.start(leader)
        until(lambda: any("holds 'abc'" in each.daemon.text() for each in cluster.started.values()), "its name")
        checked = cluster.place(leader).cli("redis", "check", env={"SCHEDULER_REDIS_URL": cluster.redis.url})
        assert checked.code == 1
        assert f"{key} holds 'abc', which is no count" in " ".join(checked.out.split())
        assert all(each.daemon.alive for each in cluster.started.values())
        way_out(client)
    alive_and_well(cluster, consumer)


@pytest.mark.parametrize("fence", ["abc", "inf", "99999999999999999"])
def test_check_names_a_fence_and_entries_that_are_none(cluster: Instances, fence: str) -> None:
    place = cluster.place("a")
    place.environ["SCHEDULER_REDIS_URL"] = cluster.redis.url
    with cluster.redis.client() as client:
        client.set(f"{P}leader_fence", fence)
        client.hset(f"{P}instances", mapping={"y": f"{FAR} x", "z": "junk", b"\xff": b"\xff"})
    view = place.cli("redis", "check", "--json")
    assert (view.code, view.json["fence"], view.json["instances"]) == (1, 0, [])
    said = "\n".join(view.json["findings"])
    assert f"{P}leader_fence holds '{fence}'" in said
    for name in ("y", "z"):
        assert f"the entry '{name}' of {P}instances cannot be read" in said
