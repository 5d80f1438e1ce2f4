"""The chaos test's way of reading every journal row finds rows that are missing, edited, or out of line."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.world import NOW, decision
from tests.support.redis_server import RedisServer, serving
from tests.support.shared_books import Gathering
from vmsh_scheduler.domain.codec import decision_to_json
from vmsh_scheduler.stores.chain import Link, Row, next_row

JOB = "dao:x/fast"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(Path(tmp_path_factory.mktemp("redis"))) as made:
        yield made


@pytest.fixture
def gathering(server: RedisServer) -> Gathering:
    with server.client() as client:
        client.flushall()
    return Gathering(server)


def rows(count: int) -> list[Row]:
    made: list[Row] = []
    link = Link()
    for n in range(count):
        made.append(next_row(link, JOB, "decision", json.dumps(decision_to_json(decision(JOB, n)))))
        link = Link(made[-1].seq, made[-1].hash)
    return made


def write(gathering: Gathering, some: Sequence[Row], head: Row) -> None:
    with gathering.redis.client() as client:
        for row in some:
            words = {"kind": row.kind, "at": NOW + row.seq - 1, "run": "", "body": row.body}
            client.xadd(gathering.keys.journal(JOB), words | {"prev": row.prev, "hash": row.hash}, f"{row.seq}-0")
        client.hset(gathering.keys.journal_heads, JOB, f"{head.seq} {head.hash}")


def test_everything_is_read_once_however_often_it_is_gathered(gathering: Gathering) -> None:
    all_rows = rows(4)
    write(gathering, all_rows[:2], all_rows[1])
    gathering.gather()
    write(gathering, all_rows[2:], all_rows[3])
    gathering.gather()
    gathering.finish()
    assert gathering.findings == []
    assert [each.slot for each in gathering.stories[JOB].decided] == [NOW, NOW + 1, NOW + 2, NOW + 3]


def test_a_row_that_is_missing_between_two_looks(gathering: Gathering) -> None:
    all_rows = rows(4)
    write(gathering, all_rows[:2], all_rows[1])
    gathering.gather()
    write(gathering, all_rows[3:], all_rows[3])
    gathering.gather()
    assert gathering.findings == [f"{JOB}: rows 3 to 3 are missing"]


def test_a_row_that_was_edited(gathering: Gathering) -> None:
    all_rows = rows(2)
    write(gathering, [all_rows[0], replace(all_rows[1], body=all_rows[0].body)], all_rows[1])
    gathering.gather()
    assert gathering.findings == [f"{JOB}: row 2 was edited"]


def test_a_tail_that_was_lost(gathering: Gathering) -> None:
    """Read, and then forgotten by the store."""
    all_rows = rows(3)
    write(gathering, all_rows, all_rows[2])
    gathering.gather()
    with gathering.redis.client() as client:
        client.xdel(gathering.keys.journal(JOB), "3-0")
        client.hset(gathering.keys.journal_heads, JOB, f"2 {all_rows[1].hash}")
    gathering.finish()
    assert len(gathering.findings) == 1
    assert f"{JOB}: the store says 2" in gathering.findings[0]
