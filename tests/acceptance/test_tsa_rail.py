"""A namespace on `rfc3161:tsa`, from anchors.yaml to `verify`: sealed, stamped, recorded, checked; killed between."""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.chained import PowerCut
from tests.support.daemon import Place, until
from tests.support.tsa import Tsa
from vmsh_scheduler.anchors.verify import verify
from vmsh_scheduler.errors import Usage

pytestmark = pytest.mark.needs("openssl")

NAMESPACES = """\
namespaces:
  docs:
    seal: {files: ["notes/*.txt"]}
    cadence:
      fast: {target: "rfc3161:tsa", every: 1s, retry: {base: 100ms, max: 1}}
"""
KILLS = 2


def configured(place: Place, tsa: Tsa, path: str = "/tsr") -> Place:
    place.write("notes/a.txt", "a")
    place.write("roots.pem", tsa.root.read_text())
    anchors = 'rfc3161:\n  tsa: {url: "${STAMP_URL}", trustBundle: roots.pem, timeout: 30s}\n'
    place.environ["STAMP_URL"] = tsa.url(path)
    place.configure(NAMESPACES, anchors=anchors)
    return place


def receipts(place: Place) -> list[Path]:
    return sorted((place.root / "out/receipts/batches").glob("*.json"))


def stamped(place: Place, count: int = 1) -> list[Path]:
    return until(lambda: found if len(found := receipts(place)) >= count else None, f"{count} receipts")


def failing(place: Place) -> list[str]:
    done = place.cli("verify", "--json")
    assert done.code in (0, 1), done.err
    return [row["detail"] for row in done.json["rows"] if not row["ok"]]


def test_sealed_stamped_recorded_and_checked(place: Place, tsa: Tsa) -> None:
    configured(place, tsa)
    place.cli("validate-config").ok()
    daemon = place.daemon().ready()
    (path,) = stamped(place)
    (anchor,) = json.loads(path.read_text())["anchors"]
    assert anchor["chain"] == "rfc3161:tsa"
    place.write("notes/b.txt", "b")
    stamped(place, 2)
    daemon.stop()
    assert failing(place) == []
    state = place.state.read_text()
    assert "rfc3161:tsa" in state
    assert tsa.url() not in state
    assert tsa.url() not in "".join(file.read_text() for file in place.root.glob("daemon-*.log"))
    _any_flipped_byte_fails(place)


def _any_flipped_byte_fails(place: Place) -> None:
    place.cli("proof", "notes/a.txt", "-o", "proof.json").ok()
    batch = sorted((place.root / "out/batches").glob("*.json"))[0]
    for path in (receipts(place)[0], batch, place.root / "notes/a.txt"):
        for _ in flipped(path):
            assert not verify(place.root).ok, path.name
    assert verify(place.root, "proof.json").ok
    for _ in flipped(place.root / "proof.json"):
        with suppress(Usage):
            assert not verify(place.root, "proof.json").ok
    for _ in flipped(place.root / "roots.pem", 1):
        assert failing(place)
    assert failing(place) == []


def flipped(path: Path, count: int = 7) -> Iterator[int]:
    """A bit at a time, at places over all of it; as it was afterwards."""
    whole = path.read_bytes()
    for position in sorted({len(whole) * part // count for part in range(count)}):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        yield position
    path.write_bytes(whole)


def test_an_entry_that_changes_is_used_by_the_next_run(place: Place, tsa: Tsa) -> None:
    configured(place, tsa, "/500")
    daemon = place.daemon().ready()
    until(lambda: "/500" in tsa.asked, "a request that fails")
    anchors = (place.root / "config/anchors.yaml").read_text().replace("${STAMP_URL}", tsa.url())
    place.write("config/anchors.yaml", anchors)
    stamped(place)
    daemon.stop()


def test_without_its_variable_it_does_not_start(place: Place, tsa: Tsa) -> None:
    configured(place, tsa)
    del place.environ["STAMP_URL"]
    done = place.cli("validate-config")
    assert done.code == 78
    assert "config/anchors.yaml:2:14: rfc3161.tsa.url: environment variable STAMP_URL is not set" in done.err
    assert place.cli("tick").code == 78


@pytest.mark.timeout(120)
def test_killed_between_sent_and_recorded_nothing_is_lost_or_doubled(place: Place, tsa: Tsa) -> None:
    for round_number in range(1, KILLS + 1):
        configured(place, tsa, "/held")
        place.write(f"notes/{round_number}.txt", str(round_number))
        tsa.arrived.clear()
        tsa.release.clear()
        daemon = place.daemon().ready()
        assert tsa.arrived.wait(30)
        assert len(receipts(place)) == round_number - 1
        PowerCut(daemon)()
        daemon.wait()
        tsa.release.set()
        place.environ["STAMP_URL"] = tsa.url()
        after = place.daemon().ready()
        for path in stamped(place, round_number):
            (anchor,) = json.loads(path.read_text())["anchors"]
            assert base64.b64decode(anchor["sig"])
        after.stop()
        assert failing(place) == []
