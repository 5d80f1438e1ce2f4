"""A Redis that was started again without its last writes, at booted daemons."""

from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.faults import BATCH, Cadence, document
from tests.support.forge import Stub
from tests.support.instances import Instances
from tests.support.ledger import SCRIPT, read
from tests.support.redis_server import RedisServer

P = "forgeos:scheduler:"


@pytest.fixture
def redis(durable: RedisServer) -> RedisServer:
    return durable.start()


@pytest.fixture
def alone(tmp_path: Path, redis: RedisServer, upstream: Stub) -> Instances:
    """One cadence that may not run twice, with a long run."""
    cluster = Instances(tmp_path, redis, upstream, together=True)
    argv = ("/bin/sh", str(tmp_path / "all/work.sh"), str(tmp_path / "all/ledger"), "3600", "0")
    cluster.namespaces = document(Cadence("slow", argv, "1h", ("env: {VMSH_KEYS: keys}", "on_unknown: hold")))
    cluster.place("a").write("out/batches/b1.json", BATCH % ("00" * 32, "00" * 32))
    cluster.place("a").write("work.sh", SCRIPT)
    return cluster


def test_a_run_of_a_job_that_comes_later_stays_in_doubt(alone: Instances, redis: RedisServer, tmp_path: Path) -> None:
    """The first leader after the restart has older files; the second one has the job again."""
    ledger = tmp_path / "all/ledger"
    try:
        alone.start("a")
        until(lambda: ledger.exists() and read(ledger), "a start")
        alone["a"].daemon.kill()
        with redis.client() as client:
            parts = ("", "_processing", "_inflight", "_payloads", "_task_owners")
            client.delete(*(f"{P}command_queue{part}" for part in parts), *client.keys(f"{P}exec_lease:*"))
            client.hset(f"{P}outcomes", "of nobody", "{}")
        redis.kill()
        redis.start()
        alone.place("a").configure("namespaces: {}\n")
        alone.start("a")
        alone.leader()
        with redis.client() as client:
            until(lambda: not client.hexists(f"{P}outcomes", "of nobody"), "the look at outcomes")
            (run,) = client.zrange(f"{P}command_queue_inflight", 0, -1)
            client.zadd(f"{P}command_queue_inflight", {run: 1})  # its time is over
            until(lambda: client.hexists(f"{P}outcomes", run), "its end")
        alone["a"].daemon.stop()
        alone.place("a").configure(alone.namespaces)
        alone.start("a")
        recovered = alone["a"].daemon.wait_line("runs recovered")
        assert (recovered["unknown"], recovered["never_began"]) == (1, 0)
        assert [entry.kind for entry in read(ledger)] == ["start"]
    finally:
        alone.close()
