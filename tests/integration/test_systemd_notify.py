"""sd_notify through a real datagram socket, and the shipped units."""

import configparser
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmsh_scheduler.errors import Exit
from vmsh_scheduler.observe.systemd import Notifier, watchdog_ms

UNITS = Path(__file__).parents[2] / "systemd"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = f"vmsh-test-{secrets.token_hex(8)}"
    abstract = request.param == "abstract"
    path = Path("/proc/self/cwd") if abstract else tmp_path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        if abstract:
            sock.bind("\0" + name)
            yield sock, "@" + name
        else:
            fd = os.open(path, os.O_RDONLY)
            sock.bind(f"/proc/self/fd/{fd}/n")
            yield sock, f"/proc/{os.getpid()}/fd/{fd}/n"
            os.close(fd)


def test_every_message(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    assert notifier.active
    sent = (
        (notifier.ready("3 ns ok"), b"READY=1\nSTATUS=3 ns ok"),
        (notifier.reloading(17), b"RELOADING=1\nMONOTONIC_USEC=17"),
        (notifier.stopping("waits for\n2 runs\nREADY=1"), b"STOPPING=1\nSTATUS=waits for 2 runs READY=1"),
        (notifier.status("x" * 900), b"STATUS=" + b"x" * 500),
        (notifier.watchdog(), b"WATCHDOG=1"),
        (notifier.extend_timeout(1_500), b"EXTEND_TIMEOUT_USEC=1500000"),
    )
    for ok, expected in sent:
        assert ok
        assert sock.recv(4096) == expected


def test_without_a_manager_nothing_happens() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": "vsock:1:2"}, {"NOTIFY_SOCKET": ""}):
        notifier = Notifier.from_environ(environ)
        assert not notifier.active
        assert not notifier.ready()


def test_a_manager_that_is_gone_or_full_is_no_error(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "nobody")).ready()
    assert not Notifier("@" + secrets.token_hex(8)).status("")
    name = "vmsh-test-" + secrets.token_hex(8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind("\0" + name)
        results = [Notifier("@" + name).watchdog() for _ in range(5_000)]
    assert results[0]
    assert not results[-1]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60_000),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60_000),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], expected: int | None) -> None:
    assert watchdog_ms(environ) == expected


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep the case of keys
    assert parser.read(UNITS / name)
    return parser


def test_daemon_unit_behaves_as_promised() -> None:
    service = unit("vmsh-scheduler.service")["Service"]
    expected = {
        "Type": "notify",
        "WatchdogSec": "60",
        "KillMode": "mixed",
        "OOMPolicy": "continue",
        "Restart": "always",
        "StateDirectoryMode": "0700",
        "UMask": "0077",
    }
    assert {key: service[key] for key in expected} == expected
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")
    assert int(service["TimeoutStopSec"]) > 330 + 10
    never = (Exit.STATE_UNREADABLE, Exit.BUSY, Exit.DENIED, Exit.CONFIG)
    assert service["RestartPreventExitStatus"] == " ".join(str(int(code)) for code in never)


def test_tick_units_belong_together() -> None:
    service, timer = unit("vmsh-scheduler-tick.service"), unit("vmsh-scheduler-tick.timer")
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["ExecStart"].endswith("vmsh-scheduler tick")
    assert service["Service"]["SuccessExitStatus"] == str(int(Exit.BUSY))
    assert "WatchdogSec" not in service["Service"]
    assert timer["Timer"]["Unit"] == "vmsh-scheduler-tick.service"
    assert timer["Timer"]["Persistent"] == "true"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("name", ["vmsh-scheduler.service", "vmsh-scheduler-tick.service"])
def test_units_are_hardened(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-300:]
