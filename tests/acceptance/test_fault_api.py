"""A4, A6, A7 at a booted daemon: an issuer that is flooded, quotas over sockets, secrets in any output."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from tests.support.canaries import CANARIES, Told, bait, hits
from tests.support.crowds import LIMIT, Shares, ask_all, flood_of_kids, issued, shared
from vmsh_scheduler.cli.full import app

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Everything that a daemon full of secrets has said, wherever."""
    with bait(tmp_path_factory.mktemp("canary")) as found:
        yield found


def test_a7_no_output_shows_a_secret(told: Told, record_property: Record) -> None:
    record_property("A7", f"{len(CANARIES)} secrets, {len(told.texts)} outputs: {len(hits(told))} hits")
    assert hits(told) == []


def test_a7_bites_every_kind_of_output_was_looked_at(told: Told) -> None:
    """What is no secret stands in them, and a secret would be found."""
    kinds = Counter(name.partition(" ")[0] for name, text in told.texts.items() if text)
    assert kinds.keys() == {"cli", "http", "probe", "state", "log", "ps"}
    command = typer.main.get_command(app)
    used = {name.split()[1] for name in told.texts if name.startswith("cli")}
    assert used >= set(command.commands)  # type: ignore[attr-defined]  # a group, as it has commands
    assert told.statuses >= {200, 400, 401, 403, 404, 413}
    for word in ("callback_500", "baited"):
        assert {name.partition(" ")[0] for name, text in told.texts.items() if word in text} >= {"cli", "state"}
    assert CANARIES["token in a callback's URL"] in told.address_book
    assert told.address_book_mode == 0o600
    leaky = Told({"log": "x" + CANARIES["shared token"]})
    assert hits(leaky) == [("log", "shared token")]


def test_a6_three_principals_at_once_get_their_share(tmp_path: Path, record_property: Record) -> None:
    with shared(tmp_path) as it:
        found = ask_all(it, 1_800)
    record_property("A6", str(found))
    assert found == Shares(dict.fromkeys(found.passed, LIMIT), found.refused, without_retry_after=0)
    assert sum(found.passed.values()) + found.refused == 1_800


def test_a4_random_kids_cost_one_fetch(tmp_path: Path, record_property: Record) -> None:
    with issued(tmp_path) as (it, issuer):
        seconds = flood_of_kids(it, 300)
        fetches = len(issuer.at("/jwks"))
    record_property("A4", f"300 tokens of random kids in {seconds:.0f} s: all 401, {fetches} fetches")
    assert fetches <= 1 + seconds / 30
