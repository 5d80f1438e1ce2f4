"""Log lines: one JSON object each on stderr, or readable text on a terminal; secrets masked, never blocking."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from vmsh_scheduler.errors import Usage
from vmsh_scheduler.observe.redact import Redactor
from vmsh_scheduler.observe.writer import LineWriter

Masker = Callable[[str], str]

LOGGER = "vmsh_scheduler"
SERVICE = "vmsh-scheduler"
FIELD_LIMIT = 8192
"""Characters of one field; more is cut, and the line says how much."""
CLOSE_PATIENCE_MS = 500

STARTING = "scheduler starting"
SERVER_STARTED = "metrics/health server started"
TICK_FAILED = "scheduler tick failed"
FATAL = "scheduler fatal"
DROPPED = "log lines dropped"

LEVELS: Mapping[str, int] = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "silent": logging.CRITICAL + 1,
}
_WORDS = ((logging.CRITICAL, "fatal"), (logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))
_PRIORITIES = {"fatal": 2, "error": 3, "warn": 4, "info": 6, "debug": 7}
"""syslog(3) levels, as journald reads them from a line's head."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """`format`: json | console | auto (console on a terminal)."""

    level: str = "info"
    format: str = "auto"
    version: str = ""
    journald: bool = False


def say(logger: logging.Logger, level: int, msg: str, /, **fields: object) -> None:
    """One event with its fields; `msg` is a fixed event name, never built from data."""
    if logger.isEnabledFor(level):
        # not logger.log: it would walk the stack for the caller's line, which no line of ours shows
        logger.handle(logger.makeRecord(logger.name, level, "", 0, msg, (), None, extra={"fields": fields}))


def under_journald(environ: Mapping[str, str], fd: int) -> bool:
    """True if `fd` is the very stream that JOURNAL_STREAM names (systemd.exec(5))."""
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{stat.st_dev}:{stat.st_ino}"


def open_log(options: LogOptions, fd: int, redactor: Redactor) -> "LogHandler":
    """Makes the one handler of the program's logger; `close` it last. Raises Usage for an unknown level or format."""
    level = LEVELS.get(options.level.lower())
    if level is None:
        raise Usage(f"LOG_LEVEL {options.level!r} is no level", hint=f"use one of {', '.join(LEVELS)}")
    handler = LogHandler(LineWriter(fd), _layout(options, fd, redactor))
    handler.setLevel(level)
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level)
    logger.propagate = False
    _leave_out_what_no_line_shows()
    logger.handlers[:] = [handler]
    return handler


def _leave_out_what_no_line_shows() -> None:
    """A third of what a record costs (logging HOWTO, "Optimization")."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _layout(options: LogOptions, fd: int, redactor: Redactor) -> "JsonLines | ConsoleLines":
    match options.format.lower():
        case "json":
            console = False
        case "console":
            console = True
        case "auto":
            console = os.isatty(fd)
        case other:
            raise Usage(f"LOG_FORMAT {other!r} is no format", hint="use json, console or auto")
    if console:
        return ConsoleLines(redactor)
    return JsonLines(redactor, options.version, journald=options.journald)


class LogHandler(logging.Handler):
    """Hands formatted lines to a writer that never waits; logging itself never raises."""

    def __init__(self, writer: LineWriter, layout: logging.Formatter) -> None:
        super().__init__()
        self._writer = writer
        self._told = 0
        self.setFormatter(layout)

    @property
    def dropped(self) -> int:
        """Lines lost to a reader that did not read."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        # logging.Handler.handle holds the handler's lock around this.
        try:
            self._writer.write(self._line(record))
            self._confess()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._writer.dropped += 1

    def flush(self) -> None:
        self._locked_flush(0)

    def close(self) -> None:
        self._locked_flush(CLOSE_PATIENCE_MS)
        super().close()

    def _locked_flush(self, wait_ms: int) -> None:
        with self.lock or threading.RLock():
            self._writer.flush(wait_ms)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _confess(self) -> None:
        """Say what was lost as soon as something gets through; the confession itself never counts."""
        lost = self._writer.dropped - self._told
        if not lost or not self._writer.flush():
            return
        record = logging.LogRecord(LOGGER, logging.WARNING, "", 0, DROPPED, (), None)
        record.fields = {"count": lost}
        before = self._writer.dropped
        self._writer.write(self._line(record))
        if self._writer.dropped == before:
            self._told = before
        self._writer.dropped = before


_encode = json.JSONEncoder().encode


class JsonLines(logging.Formatter):
    """level, time, service, version, msg, then the event's own fields; control characters escaped."""

    def __init__(self, redactor: Redactor, version: str, *, journald: bool) -> None:
        super().__init__()
        self._mask = redactor.mask
        self._suspects = redactor.suspects
        self._version = version
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        word = level_word(record.levelno)
        base = {
            "level": word,
            "time": _iso(record.created),
            "service": SERVICE,
            "version": self._version,
            "msg": record.getMessage(),
        }
        fields = _fields(record, self)
        line = self._harmless(base, fields)
        if line is None:
            base["msg"] = _text(base["msg"], self._mask)
            line = _joined(base, {name: _value(value, self._mask) for name, value in fields.items()})
        # DEL is the one control character that JSON leaves as it is.
        line = line.replace("\x7f", "\\u007f")
        return f"<{_PRIORITIES[word]}>{line}" if self._journald else line

    def _harmless(self, base: Mapping[str, str], fields: Mapping[str, object]) -> str | None:
        """The line as it is when it is short and holds nothing to mask, which is cheaper to see of the whole."""
        try:
            line = _joined(base, fields)
        except (TypeError, ValueError, RecursionError):
            return None
        return line if len(line) <= FIELD_LIMIT and not self._suspects(line) else None


def _joined(base: Mapping[str, str], fields: Mapping[str, object]) -> str:
    return _encode({**fields, **base} if base.keys() & fields.keys() else {**base, **fields})


class ConsoleLines(logging.Formatter):
    """`time LEVEL msg name=value ...` for people."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._mask = redactor.mask

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_iso(record.created)} {level_word(record.levelno).upper():<5} "
        fields = {name: _value(value, self._mask) for name, value in _fields(record, self).items()}
        shown = (f"{name}={_shown(value)}" for name, value in fields.items())
        return " ".join([head + _harmless(_text(record.getMessage(), self._mask)), *shown])


@lru_cache(64)
def level_word(levelno: int) -> str:
    return next((word for least, word in _WORDS if levelno >= least), "debug")


def _iso(created: float) -> str:
    seconds, millis = divmod(int(created * 1000), 1000)
    return f"{_iso_second(seconds)}.{millis:03d}Z"


@lru_cache(2)
def _iso_second(seconds: int) -> str:
    """Lines come in bursts: most share it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _fields(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, object]:
    fields: dict[str, object] = dict(getattr(record, "fields", {}))
    if record.name != LOGGER:
        fields["logger"] = record.name
    if record.exc_info:
        fields["trace"] = formatter.formatException(record.exc_info)
    return fields


def _value(value: object, mask: Masker) -> object:
    """A JSON value, masked and capped; anything else as its text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _text(value, mask)
    if isinstance(value, Mapping):
        masked: object = {_text(str(key), mask): _value(item, mask) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        masked = [_value(item, mask) for item in value]
    else:
        return _text(str(value), mask)
    flat = json.dumps(masked)
    return masked if len(flat) <= FIELD_LIMIT else _cut(flat)


def _text(text: str, mask: Masker) -> str:
    """Masked before it is cut to size, so that no half of a secret is left at the edge."""
    far = 4 * FIELD_LIMIT
    return _cut(mask(text[:far]), max(0, len(text) - far))


def _cut(text: str, beyond: int = 0) -> str:
    more = max(0, len(text) - FIELD_LIMIT) + beyond
    return f"{text[:FIELD_LIMIT]}... [{more} more]" if more else text


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    plain = text and not any(c.isspace() or c in "\"'=" or not c.isprintable() for c in text)
    return text if plain else _harmless(json.dumps(text, ensure_ascii=False))


def _harmless(text: str) -> str:
    """Nothing in it can move a terminal's cursor or begin a new line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
