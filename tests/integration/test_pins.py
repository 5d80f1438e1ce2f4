"""The file of pinned keys: a real file, a real issuer, virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.tokens import Issuer, claims, fetch, rs256, rsa_jwk
from tests.support.world import ToldClock
from vmsh_scheduler.api.jwt_keys import COOL_DOWN_MS, KeySet
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.domain.events import ConfigRejected, Event
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.pins import MOST_KIDS, Pins

TOKENS = {"one": rs256(claims()), "two": rs256(claims(), "two", key=1)}


class World:
    def __init__(self, path: Path, issuer: Issuer) -> None:
        self.path = path
        self.issuer = issuer
        self.events: list[Event] = []
        self.clock = ToldClock()
        path.write_text("one\n")
        self.pins = Pins(path, "kids.txt", self.clock, self.events.append)
        settings = AuthSettings(jwks_url=f"{issuer.url}/jwks", allowed_kids=self.pins.kids, require_pinned_kid=True)
        self.keys = KeySet(settings, fetch, self.clock.elapsed)
        self.pins.follow(self.keys)

    async def change(self, text: str) -> str:
        """The problem there is once the daemon has noticed."""
        self.path.write_text(text)
        await self.seconds(3)
        return self.pins.problem

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.move(SECOND)
            await self.pins.poll()

    async def good(self) -> set[str]:
        """Whose tokens are taken."""
        return {kid for kid, token in TOKENS.items() if await self.keys.verified(token, kid, "RS256") is not None}

    @property
    def said(self) -> list[tuple[str, ...]]:
        return [event.problems for event in self.events if isinstance(event, ConfigRejected)]


@asynccontextmanager
async def world(path: Path) -> AsyncIterator[World]:
    async with Issuer() as issuer:
        made = World(path / "kids.txt", issuer)
        yield made
        await made.keys.close()


async def test_a_list_that_waits_counts_once_the_issuer_publishes_a_key_of_it(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert await it.good() == {"one"}
        assert "no key that the issuer publishes now" in await it.change("two\n")
        assert await it.good() == {"one"}
        it.issuer.keys = [rsa_jwk("two", key=1)]
        await it.seconds(COOL_DOWN_MS // SECOND + 1)
        assert it.pins.problem == ""
        assert await it.good() == {"two"}
        assert len(it.said) == 1


async def test_a_token_may_bring_that_about(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert await it.good() == {"one"}
        await it.change("two\n")
        it.issuer.keys.append(rsa_jwk("two", key=1))
        it.clock.move(COOL_DOWN_MS)
        assert await it.keys.verified(TOKENS["two"], "two", "RS256") is not None
        assert await it.good() == {"two"}
        await it.seconds(1)
        assert it.pins.problem == ""


async def test_the_issuer_is_asked_once_in_30_s_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.good()
        await it.change("two\n")
        asked = len(it.issuer.asked)
        await it.seconds(90)
        assert 2 <= len(it.issuer.asked) - asked <= 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nobody\n", "kids.txt: names no kid; every key would count"),
        ("one\n" + "x" * 129 + "\n", "kids.txt:2: a kid has 1 to 128 characters, one a line"),
        ("one two\n", "kids.txt:1: a kid has 1 to 128 characters, one a line"),
        ("".join(f"k{n}\n" for n in range(MOST_KIDS + 1)), f"kids.txt: names {MOST_KIDS + 1} kids, at most 1000"),
    ],
)
async def test_a_list_that_makes_no_sense_changes_nothing(tmp_path: Path, text: str, said: str) -> None:
    async with world(tmp_path) as it:
        assert await it.change(text) == said
        assert await it.good() == {"one"}
        with pytest.raises(ConfigError, match=r"kids\.txt"):
            await it.pins.now()
        assert await it.change("one # as before\n") == ""
        assert it.said == [(said,)]


async def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.path.unlink()
        await it.seconds(3)
        assert it.pins.problem == "kids.txt: is missing"
        assert await it.good() == {"one"}
        it.path.write_text("one\n")
        await it.seconds(3)
        assert it.pins.problem == ""


def test_there_must_be_one_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kids\.txt: is missing"):
        Pins(tmp_path / "kids.txt", "kids.txt", ToldClock(), lambda _: None)
