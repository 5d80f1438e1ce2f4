"""Commands that cannot be started (row P9): the true cause, and never the command's own failure."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.children.stage import Stage, on_stage, script
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status

WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    "direct": (False, {}),
    "shim": (False, {"umask": 0o077}),
    "recorded": (True, {}),
}


class Tried:
    """One of the three ways in which a command is started."""

    def __init__(self, stage: Stage, way: str) -> None:
        self.stage = stage
        self.crash_exact, self.fields = WAYS[way]

    async def start(self, *argv: str, **fields: Any) -> Outcome:
        return await self.stage.run(Command(argv, **self.fields, **fields), crash_exact=self.crash_exact)

    async def refused(self, *argv: str, **fields: Any) -> str:
        """What it says."""
        outcome = await self.start(*argv, **fields)
        assert (outcome.status, outcome.code, outcome.error) == (Status.FAILED, "spawn_error", ErrorClass.UNKNOWN)
        assert outcome.exit_code is None
        return outcome.message


@pytest.fixture(params=WAYS)
async def tried(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Tried]:
    async with on_stage(tmp_path) as stage:
        yield Tried(stage, request.param)


async def test_p9_not_found(tried: Tried) -> None:
    assert "not found on PATH" in await tried.refused("no-such-command")
    assert "'/no/such': not found" in await tried.refused("/no/such")
    assert "is empty" in await tried.refused()
    assert "is empty" in await tried.refused("")


async def test_p9_not_executable(tried: Tried, tmp_path: Path) -> None:
    plain = script(tmp_path / "plain", "#!/bin/sh\n", 0o644)
    assert "not executable" in await tried.refused(plain)
    assert "no regular file" in await tried.refused(str(tmp_path))


async def test_p9_bad_interpreter(tried: Tried, tmp_path: Path) -> None:
    bad = script(tmp_path / "bad", "#!/no/interpreter -x\n")
    assert "interpreter '/no/interpreter' is missing" in await tried.refused(bad)


async def test_p9_no_shebang(tried: Tried, tmp_path: Path) -> None:
    text = script(tmp_path / "text", "echo hello\n")
    assert "no #! line" in await tried.refused(text)


async def test_p9_directory(tried: Tried, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cwd, why in ((tmp_path / "gone", "No such file"), (tmp_path / "file", "not a directory")):
        message = await tried.refused("true", cwd=str(cwd))
        assert message.startswith("working directory")
        assert why in message
    assert "embedded null" in await tried.refused("true", cwd="/a\0b")


async def test_p9_a_nul_in_an_argument(tried: Tried) -> None:
    for argv in (("true", "a\0b"), ("tr\0ue",), ("/bin/tr\0ue",)):
        assert "nul" in (await tried.refused(*argv)).lower()


async def test_p9_a_lone_surrogate_in_an_argument(tried: Tried) -> None:
    for argv in (("true", "\ud800"), ("tr\ud800ue",), ("/bin/\ud800",)):
        assert "surrogate" in await tried.refused(*argv)


async def test_p9_an_argument_that_is_too_long(tried: Tried) -> None:
    assert "too long" in await tried.refused("true", "x" * 200_000)


async def test_a_relative_path_is_relative_to_the_directory(tried: Tried, tmp_path: Path) -> None:
    script(tmp_path / "here", "#!/bin/sh\necho found\n")
    assert (await tried.start("./here", cwd=str(tmp_path))).output == "found\n"


async def test_a_relative_directory_on_the_path_is_not_searched(
    tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "here", "#!/bin/sh\necho found\n")
    monkeypatch.chdir(tmp_path)
    assert "not found on PATH" in await tried.refused("here", env={"PATH": ":."})
