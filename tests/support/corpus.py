"""Requests that nobody sends in good faith: paths, heads and bodies, from a seed so that each can be sent again."""

import itertools
import json
import random
from collections.abc import Callable, Iterator

PATHS = ("/health", "/metrics", "/livez", "/status", "/trigger")
_BEFORE = ("/", "//", "/.", "/./", "/..", "/../", "/x/..", "/%2e", "/%2e%2e", "/%2e%2e%2f", "/..%2f", "/%2f", "/%5c",
           "/\\", "/;", "/%00", "/%252e%252e", "/%c0%ae%c0%ae", "/static", "http://localhost", "http://evil.example",
           "https://localhost", "//evil.example", "file://")  # fmt: skip
_AFTER = ("/", "//", ".", "..", "/.", "/..", "%00", "%20", ";", ";x=1", "#", "#x", "%2f", "%3fstrict=1", "\\", "~",
          ".json", ".bak", "%0a", "%0d%0aX-Canary:%201", "/index.html", "%ff", ":80", "&x=1")  # fmt: skip
_FILES = ("/etc/passwd", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/.env",
          "/.git/config", "/state/scheduler.json", "/config/namespaces.yaml", "/proc/self/environ", "/favicon.ico",
          "/robots.txt", "/server-status", "/debug/pprof", "/HEALTH", "/Health", "/hea%6cth", "/%68ealth")  # fmt: skip


def paths() -> list[str]:
    """Request targets of which none is a path of any listener; more than 200."""
    made = {f"{before}{path}" for before, path in itertools.product(_BEFORE, PATHS)} - set(PATHS)
    made |= {f"{path}{after}" for path, after in itertools.product(PATHS, _AFTER)}
    return sorted(made | set(_FILES))


def heads(seed: int) -> Iterator[bytes]:
    """Whole heads with something wrong in most of them, without end."""
    choice = random.Random(seed)
    methods = (
        b"GET",
        b"HEAD",
        b"POST",
        b"TRACE",
        b"OPTIONS",
        b"BREW",
        b"get",
        b"CONNECT",
        b"PRI",
        b"",
        b"G\x00T",
        b"\xff",
    )
    versions = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"http/1.1", b"", b"HTTP/1.1 x")
    targets = [path.encode("latin-1") for path in (*PATHS, *paths(), "*", "", "a" * 3000)]
    while True:
        line = b" ".join((choice.choice(methods), choice.choice(targets), choice.choice(versions)))
        fields = [b"Host: localhost"] * choice.choice((1, 1, 1, 1, 0, 2))
        fields += [_field(choice) for _ in range(choice.choice((0, 1, 1, 2, 5)))]
        text = line + b"\r\n" + b"".join(field + choice.choice((b"\r\n",) * 9 + (b"\n",)) for field in fields)
        yield _bent(choice, text) + b"\r\n\r\n"


def _field(choice: random.Random) -> bytes:
    names = (b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"Accept", b"Host",
             b"Range", b"Content-Encoding", b"Accept-Encoding", b"Origin", b"Cookie", b"X", b"X ", b"",
             b"\x00", b"X" * 300)  # fmt: skip
    values = (b"0", b"1", b"-1", b"1_0", b"9" * 25, b"chunked", b"identity", b"close", b"upgrade", b"websocket", b"h2c",
              b"100-continue", b"gzip", b"bytes=0-", b"*/*", b"text/plain;q=nan", b"a\x00b", b"\x1b[31m", b"\xff\xfe",
              b"", b" folded\r\n more", b"x" * 2000)  # fmt: skip
    return choice.choice(names) + choice.choice((b": ", b":", b" : ", b"")) + choice.choice(values)


def _bent(choice: random.Random, text: bytes) -> bytes:
    """One byte in ten texts is another."""
    if choice.random() < 0.9 or not text:
        return text
    at = choice.randrange(len(text))
    return text[:at] + bytes([choice.randrange(256)]) + text[at + 1 :]


NASTY: tuple[bytes, ...] = (
    b"", b"null", b"true", b"0", b'""', b"[]", b"[[]]", b"{", b"}", b'{"job"}', b'{"job":}', b'{"job": NaN}', b"NaN",
    b'{"job": 1e400}', b'{"until": -1e400}', b'{"until": 1e-400}', b'{"job": Infinity}', b'{"job": "a", "job": "b"}',
    b'\xef\xbb\xbf{"job": "a"}', b'{"job": "\\ud800"}', b'{"\\udfff": 1}', b'{"job": "\xff"}', b'{"job": "\\u0000"}',
    b'{"job": "a\nb"}', b'{"job": "\\u001b[31m\\r\\n"}', b'{"job": ' + b"9" * 5_000 + b"}",
    b'{"until": 1' + b"0" * 400 + b"}",
    b'{"a":' * 9_000, b"[" * 60_000, b'{"a":[' * 5_000 + b"]}" * 5_000, b'{"job": "' + b"x" * 60_000 + b'"}',
    b"\x00" * 100,
    b'{"job": "a"}{"job": "b"}', b"{'job': 'a'}", b'{"job": "a",}', b'{"job": 0x10}', b'{"job": 01}', b'{"until": 1.5}',
    '{"job": "a"}'.encode("utf-16"), b'{"__proto__": {}}', b'{"job": {"$ne": null}}', b'{"job": ["n/f"]}',
)  # fmt: skip
_VALUES: tuple[Callable[[random.Random], object], ...] = (
    lambda _: "h/fast",
    lambda _: "nobody/fast",
    lambda choice: "".join(chr(choice.randrange(0x2FFF)) for _ in range(choice.randrange(20))),
    lambda choice: "\u202e\x00\x1b\u2028\ufeff\U0001f600"[: choice.randrange(6)] * choice.choice((1, 100)),
    lambda choice: choice.choice((0, 1, -1, 10**14, 10**15, 2**63, -(2**63), 10**300, True, None, 0.5, 1e308)),
    lambda choice: [[{}] * choice.randrange(3)] * choice.randrange(3),
    lambda choice: {"job": choice.choice(("a", None, {}))},
    lambda choice: "x" * choice.choice((499, 500, 501, 5_000)),
    lambda choice: choice.choice(("ok", "failed", "retry", "", " ")),
)
_NAMES = ("job", "by", "until", "note", "run", "as", "jobb", "", "\x00", "limit")


def bodies(seed: int) -> Iterator[bytes]:
    """Bodies of a POST, each at most 64 KiB, without end: what is no JSON, JSON that is nasty, and decent JSON with
    values that nobody reckons with."""
    choice = random.Random(seed)
    while True:
        kind = choice.random()
        if kind < 0.15:
            yield choice.choice(NASTY)
        elif kind < 0.2:
            yield choice.randbytes(choice.randrange(200))
        else:
            text = _decent(choice)
            yield text if kind < 0.7 else _mangled(choice, text)


def _decent(choice: random.Random) -> bytes:
    values = {choice.choice(_NAMES): choice.choice(_VALUES)(choice) for _ in range(choice.randrange(5))}
    if choice.random() < 0.5:
        values["job"] = "h/fast"
    return json.dumps(values, ensure_ascii=choice.random() < 0.5).encode("utf-8", "surrogatepass")


def _mangled(choice: random.Random, text: bytes) -> bytes:
    """Bytes changed, cut out, doubled or moved."""
    raw = bytearray(text)
    for _ in range(choice.randrange(1, 5)):
        at, end = sorted((choice.randrange(len(raw) + 1), choice.randrange(len(raw) + 1)))
        part = bytes(raw[at:end])
        raw[at:end] = choice.choice((b"", part * 2, choice.randbytes(3), part[::-1], choice.choice(NASTY)[:200]))
    return bytes(raw[: 64 << 10])
