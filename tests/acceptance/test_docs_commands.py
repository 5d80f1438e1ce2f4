"""Every command line printed in the documentation works as printed; no word of it is unknown to the program."""

import http.client
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import dropwhile
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Place, until
from tests.support.forge import WALLET, stub
from tests.support.redis_server import serving
from tests.support.shipped import shipped

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "systemd/README.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]

NOT_RUN = {
    "make": "sets up a virtual environment: the tests run in it (its targets are looked up below)",
    ".": "activates that environment: the tests find the command without",
    "sudo": "changes the machine",
    "systemctl": "needs a service manager",
    "journalctl": "needs a service manager",
    "pip": "asks a package index",
    "export": "the tests give it to the commands themselves",
    "py-spy": "a profiler that is no part of this project",
}
EXAMPLES = {"dao:vaultmesh/fast": "demo:files/fast"}
"""Jobs of the reader, and those of the shipped files that stand in for them."""


@dataclass(frozen=True)
class Line:
    """One line of a fenced sh or console block."""

    document: Path
    number: int
    text: str

    @property
    def words(self) -> list[str]:
        """Without variables in front."""
        return list(dropwhile(re.compile("[A-Z_]+=").match, shlex.split(self.text, comments=True)))

    def __str__(self) -> str:
        return f"{self.document.name}:{self.number} {self.text}"


def printed() -> Iterator[Line]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8") if document.exists() else ""
        for block in re.finditer(r"^```(sh|console|bash|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            first = text[: block.start(2)].count("\n") + 1
            for offset, line in enumerate(block[2].splitlines()):
                shown = line.removeprefix("$ ").strip()
                if shown and not shown.startswith("#") and (block[1] != "console" or line.startswith("$ ")):
                    yield Line(document, first + offset, shown)


LINES = list(printed())
RUN = [line for line in LINES if line.words and line.words[0] not in NOT_RUN]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The shipped example with the API on, and the agents that the documents speak of."""
    with stub() as upstream:
        environ = {"PORT": "8790", "KAS_API_BASE": upstream.url}
        with shipped(tmp_path_factory.mktemp("checkout"), environ) as daemon:
            daemon.wait_line("api started")
            for agent in ("alpha", "beta"):
                daemon.place.cli("agents", "register", agent, "--wallet", WALLET).ok()
            yield daemon


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where docs/redis.md is read: the shipped files, and a Redis that forgets nothing."""
    with serving(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as redis:
        place = Place(tmp_path_factory.mktemp("several"))
        place.configure("namespaces: {}\n")
        place.environ |= {"SCHEDULER_REDIS_URL": redis.url, "PORT": "0"}
        yield place
        place.close()


@contextmanager
def consumer(script: Path, out: Path) -> Iterator[int]:
    """The example on any port, which it says; what it prints goes to `out`."""
    with out.open("wb") as sink, subprocess.Popen([sys.executable, script, "0"], stdout=sink) as process:
        try:
            said = until(lambda: re.search(r"^listening on (\d+)$", out.read_text(), re.MULTILINE), "the consumer")
            yield int(said[1])
        finally:
            process.kill()


def test_there_is_something_to_run() -> None:
    assert {"vmsh-scheduler status", "curl localhost:9090/health", "vmsh-scheduler verify"} <= {r.text for r in RUN}


@pytest.mark.parametrize("line", RUN, ids=str)
def test_it_works_as_printed(checkout: Daemon, several: Place, line: Line) -> None:
    words = [EXAMPLES.get(word, word) for word in line.words]
    if words == ["vmsh-scheduler", "run"]:
        several.daemon().wait_line("leading")
    elif words[:2] == ["vmsh-scheduler", "redis"]:
        assert several.cli(*words[1:]).ok().out.strip()
    elif words[0] == "vmsh-scheduler":
        done = checkout.place.cli(*words[1:]).ok()
        assert done.out.strip()
        assert "Traceback" not in done.err
    elif words == ["python", "docs/examples/consumer.py"]:  # runs until it is stopped
        with consumer(checkout.place.root / words[1], checkout.place.root / "consumer.out") as port:
            assert port
    elif words[0] == "python":
        done = subprocess.run([sys.executable, *words[1:]], cwd=checkout.place.root, capture_output=True, check=True)
        assert done.stdout.strip()
    elif words[0] == "curl":
        status = curl(checkout, words[1:])
        # the one job may be running at this very moment, which is an answer too
        assert status == 200 or (status == 409 and "trigger" in line.text), status
    else:
        pytest.fail(f"nobody knows how to run {line}: teach this test, or list why not")


def test_the_quick_start_of_agents_brings_a_cycle(checkout: Daemon, tmp_path: Path) -> None:
    root = checkout.place.root
    (line,) = [line for line in RUN if line.document.name == "agents.md" and "127.0.0.1:3001" in line.text]
    with consumer(root / "docs" / "examples" / "consumer.py", tmp_path / "out") as port:
        words = [word.replace("127.0.0.1:3001", f"127.0.0.1:{port}") for word in line.words]
        assert curl(checkout, words[1:]) == 200
        until(lambda: "cycle anon:alpha forgeos.scheduler:anon:alpha:" in (tmp_path / "out").read_text(), "a cycle")


def curl(daemon: Daemon, words: list[str]) -> int:
    """The few options that the documentation uses, without curl, which a fresh machine lacks."""
    options, rest = {}, []
    while words:
        word = words.pop(0)
        if word in ("-d", "-H", "--unix-socket"):
            options[word] = words.pop(0)
        elif word.startswith("-"):
            pytest.fail(f"curl {word} is not known here")
        else:
            rest.append(word)
    (url,) = rest
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    printed = {"9090": lambda: daemon.port, "8790": lambda: daemon.wait_line("api started")["port"]}
    at = printed[port]() if port in printed else int(port or 80)
    connection = http.client.HTTPConnection(name, at, timeout=10)
    if "--unix-socket" in options:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(daemon.place.root / options["--unix-socket"]))
    body = options.get("-d")
    for document, ours in EXAMPLES.items():
        body = body.replace(document, ours) if body else body
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    if "-H" in options:
        given, _, value = options["-H"].partition(": ")
        headers[given] = value
    connection.request("POST" if body else "GET", f"/{path}", body, headers)
    with connection.getresponse() as reply:
        reply.read()
        status = reply.status
    connection.close()
    return status


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert {"run", "test"} <= named
    assert named <= targets


MENTION = re.compile(r"`(?:vmsh-scheduler )([a-z][a-z-]*)((?: [^`]*)?)`")


@cache
def help_of(command: str) -> str:
    return Place(REPOSITORY).cli(*command.split(), "--help", env={"COLUMNS": "200"}).ok().out


def test_every_command_and_option_mentioned_is_known() -> None:
    """In running text and tables, too: `vmsh-scheduler resolve RUN --as ok`."""
    mentions = [(document, *found) for document in DOCUMENTS for found in MENTION.findall(document.read_text())]
    assert len(mentions) > 20
    for document, command, rest in mentions:
        name = f"{command} {rest.split()[0]}" if command in ("config", "record", "redis") else command
        shown = help_of(name)
        options = re.findall(r"(?<![\w-])(--?[a-z][a-z0-9-]*)", rest)
        assert [option for option in options if not re.search(rf"{option}\b", shown)] == [], (document.name, command)


def test_files_that_documents_link_to_exist() -> None:
    broken = [
        f"{document.relative_to(REPOSITORY)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []
