"""Log lines through real pipes: shape, masking, and readers that are slow, gone or hostile."""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from vmsh_scheduler.errors import Usage
from vmsh_scheduler.observe import logs
from vmsh_scheduler.observe.logs import LogHandler, LogOptions, open_log, say, under_journald
from vmsh_scheduler.observe.redact import Redactor

SECRET = "hunter22-canary"
Opened = Callable[..., LogHandler]


class Pipe:
    """Both ends of a pipe; `text` reads what is there without waiting."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def text(self) -> str:
        parts = []
        try:
            while part := os.read(self.reader, 65536):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts).decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.reader, pipe.writer):
        with suppress(OSError):
            os.close(fd)


@pytest.fixture
def opened(pipe: Pipe) -> Iterator[Opened]:
    """The program's log on the pipe; the logger is put back afterwards."""
    logger = logging.getLogger(logs.LOGGER)
    before = logger.handlers[:], logger.level, logger.propagate

    def make(fd: int | None = None, **options: Any) -> LogHandler:
        chosen = LogOptions(**{"format": "json", "version": "9.9", **options})
        return open_log(chosen, pipe.writer if fd is None else fd, Redactor([SECRET]))

    yield make
    logger.handlers[:], logger.level, logger.propagate = before


def log(level: int, msg: str, **fields: object) -> None:
    say(logging.getLogger(logs.LOGGER), level, msg, **fields)


def test_base_fields_and_event_fields(pipe: Pipe, opened: Opened) -> None:
    opened()
    log(logging.INFO, logs.SERVER_STARTED, port=9090)
    (line,) = pipe.lines()
    assert list(line) == ["level", "time", "service", "version", "msg", "port"]
    assert line["time"][10] == "T"
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-11-21T12:00:00.000Z")
    del line["time"]
    assert line == {
        "level": "info", "service": "vmsh-scheduler", "version": "9.9",
        "msg": "metrics/health server started", "port": 9090,
    }  # fmt: skip


def test_h4_one_object_per_line_whatever_is_in_it(pipe: Pipe, opened: Opened) -> None:
    opened()
    hostile = 'a\r\n{"level":"info"}\x1b[31m\x00\x7f\x85\u2028\ud800'
    log(logging.WARNING, "trouble", text=hostile, **{hostile: hostile})
    text = pipe.text()
    assert text.count("\n") == 1
    assert all(" " <= c <= "~" for c in text.rstrip("\n"))
    assert json.loads(text)["text"] == hostile


def test_an_event_field_cannot_pose_as_a_base_field(pipe: Pipe, opened: Opened) -> None:
    opened()
    log(logging.ERROR, "x", service="forged", time="forged", version="forged")
    (line,) = pipe.lines()
    assert "forged" not in line.values()


def test_long_fields_are_cut_and_say_so(pipe: Pipe, opened: Opened) -> None:
    opened()
    log(
        logging.INFO,
        "x",
        long="a" * 50_000,
        many=["b" * 100] * 200,
        short=[1, {"k": None}],
        odd={
            1,
        },
    )
    (line,) = pipe.lines()
    assert line["long"] == "a" * 8192 + f"... [{50_000 - 8192} more]"
    assert len(line["many"]) < 8300
    assert line["short"] == [1, {"k": None}]
    assert line["odd"] == "{1}"


def test_a7_secrets_are_masked_in_messages_fields_keys_and_traces(pipe: Pipe, opened: Opened) -> None:
    opened()
    log(logging.INFO, f"x {SECRET}", a=SECRET, b=[{"c": SECRET, SECRET: 1}], url="https://u:p@h/")
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger(logs.LOGGER + ".http").exception("request failed")
    text = pipe.text()
    assert SECRET not in text
    assert "u:p@" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[1]["trace"].startswith("Traceback")
    assert lines[1]["logger"] == "vmsh_scheduler.http"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warn", "error", "fatal"]),
        ("WARN", ["warn", "error", "fatal"]),
        ("fatal", ["fatal"]),
        ("silent", []),
    ],
)
def test_level_words_and_threshold(pipe: Pipe, opened: Opened, level: str, expected: list[str]) -> None:
    opened(level=level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log(number, "x")
    assert [line["level"] for line in pipe.lines()] == expected


def test_journald_gets_priorities(pipe: Pipe, opened: Opened) -> None:
    stat = os.fstat(pipe.writer)
    assert under_journald({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, pipe.writer)
    assert not under_journald({"JOURNAL_STREAM": "1:1"}, pipe.writer)
    assert not under_journald({"JOURNAL_STREAM": "1:1"}, 10**6)
    opened(journald=True)
    log(logging.ERROR, "x")
    assert pipe.text().startswith('<3>{"level": "error"')


def test_console_on_a_terminal_is_for_people_and_cannot_move_the_cursor(opened: Opened) -> None:
    leader, terminal = os.openpty()
    try:
        opened(fd=terminal, format="auto")
        log(logging.WARNING, "anchor failed", ns="dao:x", err="a b\x1b[2J\nforged", count=3, none=None)
        text = os.read(leader, 4096).decode()
    finally:
        os.close(leader)
        os.close(terminal)
    assert text[24:].rstrip() == ' WARN  anchor failed ns=dao:x err="a b\\u001b[2J\\nforged" count=3 none=null'


def test_auto_is_json_when_nobody_watches(pipe: Pipe, opened: Opened) -> None:
    opened(format="auto")
    log(logging.INFO, "x")
    assert pipe.lines()[0]["msg"] == "x"


@pytest.mark.parametrize("options", [{"level": "loud"}, {"format": "xml"}])
def test_unknown_settings_are_refused(opened: Opened, options: dict[str, str]) -> None:
    with pytest.raises(Usage, match="LOG_"):
        opened(**options)


def drained(pipe: Pipe, handler: LogHandler) -> str:
    text = ""
    while part := pipe.text():
        text += part
        handler.flush()
    return text


def test_a_reader_that_stops_reading_blocks_nothing_and_learns_what_it_missed(pipe: Pipe, opened: Opened) -> None:
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4096)
    handler = opened()
    for number in range(400):
        log(logging.INFO, "x", number=number, pad="p" * 5_000)
    assert handler.dropped > 0
    text = drained(pipe, handler)
    log(logging.INFO, "last")
    seen = [json.loads(line) for line in (text + drained(pipe, handler)).splitlines()]
    kept = [line["number"] for line in seen if "number" in line]
    assert kept == list(range(len(kept)))
    assert seen[-1]["msg"] == "log lines dropped"
    assert seen[-1]["count"] == 400 - len(kept)


def test_a_reader_that_is_gone_is_no_error(pipe: Pipe, opened: Opened) -> None:
    handler = opened()
    os.close(pipe.reader)
    for _ in range(3):
        log(logging.INFO, "x")
    assert handler.dropped == 3
    handler.close()


def test_a_closed_descriptor_is_no_error(pipe: Pipe, opened: Opened) -> None:
    handler = opened()
    os.close(pipe.writer)
    log(logging.INFO, "x")
    handler.close()


def test_a_full_disk_costs_the_line_at_hand_only(opened: Opened) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        handler = opened(fd=full)
        log(logging.INFO, "x")
        log(logging.INFO, "y")
        assert handler.dropped >= 2
    finally:
        os.close(full)


def test_what_cannot_be_formatted_is_counted_not_raised(pipe: Pipe, opened: Opened) -> None:
    handler = opened()
    logging.getLogger(logs.LOGGER).info("%d", "no number")
    assert (handler.dropped, pipe.text().count("log lines dropped")) == (1, 0)
    log(logging.INFO, "x")
    assert [line["msg"] for line in pipe.lines()] == ["x", "log lines dropped"]
