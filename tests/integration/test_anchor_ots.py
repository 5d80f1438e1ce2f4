"""The `ots` rail: calendars of all kinds, proofs that any client can check, and blocks that a node bears out or not."""

import base64
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.calendar import Calendar, Headers, calendars, dead_url, header_node, says, send
from tests.support.daemon import UNMEASURED
from tests.support.site import Answer, Document, Site
from vmsh_scheduler.anchors import disk, facts, ots_confirm, ots_proof
from vmsh_scheduler.anchors.calendars import Calendars
from vmsh_scheduler.anchors.chain import Unreachable
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.fetch import Ask, fetch
from vmsh_scheduler.anchors.online import of_facts
from vmsh_scheduler.anchors.ots_proof import Garbled
from vmsh_scheduler.anchors.rpc import endpoint
from vmsh_scheduler.anchors.submission import Book, Phase
from vmsh_scheduler.anchors.verify import verify
from vmsh_scheduler.domain.batch import hash_bytes, hash_text, render, with_digest
from vmsh_scheduler.domain.merkle import v0_path
from vmsh_scheduler.errors import Exit

START = 1_750_000_000
HOUR = 3_600
ROOT = bytes(range(32))


@dataclass
class Rig:
    """One batch, three calendars, a clock of its own."""

    site: Site
    calendars: list[Calendar]
    clock: SimpleNamespace
    rail: Document = field(default_factory=dict)
    batch: Document = field(default_factory=dict)

    def request(self, **more: object) -> Document:
        rail = {"calendars": [one.uri for one in self.calendars], "need": 2, "timeout": "2s", **self.rail}
        return self.site.request(self.batch, target="ots:public", rail=rail, railName="public", **more)

    def anchor(self, **more: object) -> Answer:
        return self.site.ask("ots", self.request(**more))

    def confirm(self) -> Answer:
        return self.site.ask("confirm", self.request())

    def with_node(self, node: Headers, depth: int = 3) -> None:
        self.rail = {"btc": {"regtest": {"rpcUrl": node.url, "confirmations": depth}}}

    @property
    def proof(self) -> Path:
        return self.site.out / "attestations/ots/public" / f"{self.batch['id']}.ots"

    @property
    def attested(self) -> Document:
        receipt = self.site.read(f"out/receipts/batches/{self.batch['id']}.json")
        assert receipt["anchors"][0]["chain"] == "ots:public"
        anchor: Document = receipt["anchors"][0]
        return anchor

    def contents(self) -> ots_proof.Contents:
        return ots_proof.contents(self.proof.read_bytes(), hash_bytes(self.batch["root"]))

    def details(self) -> list[str]:
        return [row.detail for row in self.site.verify().rows if row.kind == "receipt"]

    def online(self, *, listed: bool = True) -> list[str]:
        """Details of the rows that fail with --online."""
        request = self.request()
        entries = {"ots:public": {"rail": request["rail"], "railName": "public"}} if listed else {}
        told = Facts({"root": str(self.site.root), "online": True, "rails": entries}, {})
        return [row.detail for row in verify(self.site.root, "all", of_facts(told)).rows if not row.ok]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    clock = SimpleNamespace(now=START)
    monkeypatch.setattr(facts, "time", SimpleNamespace(time=lambda: clock.now))
    site = Site(tmp_path)
    with calendars(3) as three:
        yield Rig(site, three, clock, batch=site.put_batch("1700-1", leaves=3))


@pytest.fixture
def node() -> Iterator[Headers]:
    with header_node() as one:
        yield one


def test_a_stamped_batch_is_pending_at_every_calendar_that_answered(rig: Rig) -> None:
    answer = rig.anchor()
    assert (answer.code, answer.result["phase"]) == (0, "submitted")
    attested = rig.attested
    assert attested == answer.result["attestation"]
    assert (attested["status"], attested["block"], attested["ts"]) == ("submitted", 0, START)
    assert {promise.uri for promise in rig.contents().promises} == {one.uri for one in rig.calendars}
    assert attested["proof"] == "out/attestations/ots/public/1700-1.ots"
    assert rig.site.verify().ok
    assert "pending at http://127.0.0.1" in rig.details()[0]


def test_calendars_see_the_root_blinded(rig: Rig) -> None:
    rig.anchor()
    seen = {digest for one in rig.calendars for digest in one.digests}
    assert seen == {hash_bytes(rig.attested["tx"])}
    assert hash_bytes(rig.batch["root"]) not in seen


def test_a_second_run_asks_nobody_and_a_probe_says_that_it_landed(rig: Rig) -> None:
    assert rig.site.ask("probe", rig.request()).code == Exit.FAILED
    first = rig.anchor().result["attestation"]
    asked = [len(one.digests) for one in rig.calendars]
    assert rig.anchor().result["attestation"] == first
    assert rig.site.ask("probe", rig.request()).result["attestation"] == first
    assert [len(one.digests) for one in rig.calendars] == asked == [1, 1, 1]


def test_another_root_under_the_same_batch_is_refused(rig: Rig) -> None:
    rig.anchor()
    rig.batch = rig.site.put_batch("1700-1", leaves=2)
    answer = rig.anchor()
    assert (answer.code, answer.result["code"]) == (Exit.STATE_UNREADABLE, "corrupt")


def test_without_the_proof_file_a_run_writes_it_again(rig: Rig) -> None:
    rig.anchor()
    before = rig.proof.read_bytes()
    rig.proof.unlink()
    assert "is gone" in str(rig.site.failures())
    rig.anchor()
    assert rig.proof.read_bytes() == before
    assert rig.site.verify().ok


def test_two_rails_have_two_proofs_of_one_batch(rig: Rig) -> None:
    rig.anchor()
    rig.site.ask("ots", {**rig.request(), "target": "ots:other"})
    assert rig.site.verify().ok
    assert (rig.site.out / "attestations/ots/other/1700-1.ots").exists()


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: each within any time limit of a socket, the whole never."""
    handler.send_response(200)
    handler.end_headers()
    handler.connection.settimeout(0.05)
    for _ in range(100):
        handler.wfile.write(b"\xf0")
        with suppress(TimeoutError):
            handler.connection.recv(1)
            return


def hang(seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """Nothing until the client hangs up."""

    def wait(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.settimeout(seconds)
        with suppress(OSError):
            handler.connection.recv(1)

    return wait


BAD = {
    "garbage": (says(200, b"\x01\x02\x03 no timestamp"), "no readable timestamp"),
    "a timestamp with something behind it": (None, "no readable timestamp"),
    "huge": (says(200, b"\xf0" * 20_000), "more than 10000 bytes"),
    "empty": (says(200), "answered with nothing"),
    "a page": (says(200, b"<html>sign in</html>"), "a web page"),
    "a redirect": (says(302, Location="http://127.0.0.1:1/digest"), "redirects elsewhere (HTTP 302)"),
    "HTTP 500": (says(500, b"oops"), "answered HTTP 500"),
    "HTTP 401": (says(401), "answered HTTP 401"),
    "silence": (hang(5), "gave no answer within 0.3 s"),
    "a byte now and then": (drip, "gave no answer within 0.3 s"),
}

SLOW = ("silence", "a byte now and then")


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_calendar_of_three_does_no_harm_and_two_are_too_many(rig: Rig, kind: str) -> None:
    bad, said = BAD[kind]
    rig.rail = {"timeout": "300ms"} if kind in SLOW else {}
    rig.calendars[0].on_digest = bad or trailing(rig.calendars[0])
    assert rig.anchor().code == 0
    assert {promise.uri for promise in rig.contents().promises} == {one.uri for one in rig.calendars[1:]}
    rig.batch = rig.site.put_batch("1700-2")
    rig.calendars[1].on_digest = bad or trailing(rig.calendars[1])
    answer = rig.anchor()
    assert (answer.code, answer.result["code"]) == (Exit.BUSY, "unreachable")
    assert "1 of 3 calendars answered, and 2 are needed" in answer.result["message"]
    assert said in answer.result["message"]
    assert not rig.proof.exists()
    rig.calendars[1].on_digest = None
    assert rig.anchor().code == 0
    assert len(set(rig.calendars[1].digests)) == 2, "one commitment for each batch, however often it was tried"


def trailing(one: Calendar) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, 200, Calendar(one.uri).take(b"x" * 32) + b"\0")


@pytest.mark.parametrize("down", [1, 2])
def test_calendars_that_are_down(rig: Rig, down: int) -> None:
    urls = [dead_url() if number < down else one.uri for number, one in enumerate(rig.calendars)]
    rig.rail = {"calendars": urls}
    answer = rig.anchor()
    assert answer.code == (0 if down == 1 else Exit.BUSY)
    if down == 2:
        assert answer.result["message"].count("cannot be reached: Connection refused") == 2


def test_two_pools_that_lead_to_one_calendar_count_once(rig: Rig) -> None:
    rig.calendars[0].promises = rig.calendars[1].promises = rig.calendars[2].uri
    assert "1 of 3 calendars answered" in rig.anchor().result["message"]


@pytest.mark.parametrize(
    ("uri", "may"),
    [
        ("https://alice.btc.calendar.opentimestamps.org", True),
        ("https://alice.btc.calendar.opentimestamps.org/", True),
        ("http://alice.btc.calendar.opentimestamps.org", False),
        ("https://evil.example/.calendar.opentimestamps.org", False),
        ("https://calendar.opentimestamps.org.evil.example", False),
        ("https://me.trusted.example", True),
        ("https://me:99999.trusted.example", False),
        ("http://127.0.0.1:8332/", False),
        ("http://127.0.0.1:14788", True),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_only_known_calendars_are_asked_for_proofs(uri: str, *, may: bool) -> None:
    ours = "http://127.0.0.1:14788"
    calendars = Calendars({ours: endpoint(ours)}, ("https://*.trusted.example",))
    assert calendars.may_ask(uri) is may


def test_a_calendar_that_sends_us_to_a_stranger_promises_nothing(rig: Rig) -> None:
    rig.calendars[0].promises = rig.calendars[1].promises = "http://169.254.169.254/latest"
    answer = rig.anchor()
    assert "sends us to http://169.254.169.254/latest, which `trusted` does not name" in answer.result["message"]


def test_too_early_then_upgraded_then_final(rig: Rig, node: Headers) -> None:
    rig.with_node(node)
    rig.anchor()
    early = rig.confirm()
    assert (early.code, early.result["open"], early.result["changed"]) == (0, 1, [])
    pending = rig.proof.read_bytes()
    height = rig.calendars[1].anchor(node)
    rig.clock.now += HOUR
    moved = rig.confirm().result
    assert moved["changed"] == [
        {
            "batch": "1700-1",
            "namespace": "demo:files",
            "tx": rig.attested["tx"],
            "was": "submitted",
            "now": "verified",
            "seconds": HOUR,
        }
    ]
    assert (rig.attested["block"], rig.attested["status"], rig.attested["depth"]) == (height, "verified", 1)
    assert len(rig.proof.read_bytes()) > len(pending)
    assert {promise.uri for promise in rig.contents().promises} == {one.uri for one in rig.calendars}, "none is lost"
    node.bury(2)
    final = rig.confirm().result
    assert (final["open"], final["phases"]) == (0, {"final": 1})
    attested = rig.attested
    assert attested["merkleRoot"] == node.headers[height][36:68][::-1].hex()
    assert attested["blockHash"] == node.digest(height)[::-1].hex()
    assert (attested["status"], attested["checked"], attested["ts"]) == ("final", True, 1_700_000_600)
    assert rig.site.verify().ok
    assert "as a node said then" in rig.details()[0]
    questions = len(node.asked)
    assert rig.confirm().result["open"] == 0
    assert node.asked[questions:] == ["getblockchaininfo"], "what is settled is not asked about again"


def test_what_moved_is_told_also_when_the_disk_fails_once_it_is_written(
    rig: Rig, node: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass finds it where it is."""
    rig.anchor()
    rig.calendars[0].anchor(node)
    rig.clock.now += HOUR

    def unsynced(_: Path) -> None:
        kept = Book(rig.site.out, "ots:public").get(rig.batch["id"])
        if kept is not None and kept.phase is Phase.FINAL:
            raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "sync_directory", unsynced)
        failed = rig.confirm()
    assert (failed.code, failed.result["code"]) == (Exit.BUSY, "disk_failed")
    assert [(one["was"], one["now"]) for one in failed.result["changed"]] == [("submitted", "final")]
    assert rig.confirm().result["changed"] == []


def test_without_a_node_the_calendars_word_is_said_to_be_just_that(rig: Rig, node: Headers) -> None:
    rig.anchor()
    height = rig.calendars[0].anchor(node)
    result = rig.confirm().result
    assert (result["open"], result["phases"]) == (0, {"final": 1})
    attested = rig.attested
    assert (attested["block"], attested["checked"], attested["ts"]) == (height, False, START)
    root = node.headers[height][36:68][::-1].hex()
    assert f"in Bitcoin block {height}, merkle root {root}, on the calendars' word: compare it" in rig.details()[0]
    assert rig.site.verify().ok
    rig.with_node(node, 1)
    assert rig.online() == []
    rig.confirm()
    assert (rig.attested["checked"], rig.attested["ts"]) == (True, 1_700_000_600)


def test_a_calendars_false_word_is_found_once_there_is_a_node(rig: Rig, node: Headers) -> None:
    rig.anchor()
    rig.calendars[0].anchor(node, merkle_root=b"\7" * 32)
    rig.confirm()
    rig.with_node(node, 1)
    assert "another merkle root" in rig.online()[0]
    rig.clock.now += HOUR
    result = rig.confirm().result
    assert result["phases"] == {"submitted": 1}
    assert (rig.attested["block"], "merkleRoot" in rig.attested) == (0, False)
    right = rig.calendars[1].anchor(node)
    rig.clock.now += HOUR
    rig.confirm()
    assert (rig.attested["block"], rig.attested["checked"]) == (right, True)
    assert rig.online() == []


def test_a_wrong_merkle_root_is_not_taken(rig: Rig, node: Headers) -> None:
    rig.with_node(node)
    rig.anchor()
    before = rig.proof.read_bytes()
    rig.calendars[0].anchor(node, merkle_root=b"\7" * 32)
    result = rig.confirm().result
    assert "block 1: that block has another merkle root than the proof leads to" in result["warnings"][0]
    assert (result["open"], rig.proof.read_bytes()) == (1, before)


def test_a_block_at_a_time_that_no_calendar_has_is_not_taken(
    rig: Rig, node: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    rig.calendars[0].anchor(node)
    header = Headers._header
    monkeypatch.setattr(Headers, "_header", lambda *of, verbose: {**header(*of, verbose=verbose), "time": 2**62})
    refused = rig.confirm()
    assert (refused.code, refused.result["code"]) == (Exit.BUSY, "not_rpc")
    assert "in no year from 1970 to 9999" in refused.result["message"]
    assert rig.attested["block"] == 0


def test_a_block_that_our_node_does_not_have_yet_is_waited_for(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    with header_node() as ahead:
        ahead.bury(5)
        rig.calendars[0].anchor(ahead)
    result = rig.confirm().result
    assert "block 6 is not in our node's chain yet" in result["warnings"][0]
    assert rig.attested["block"] == 0


def test_a_block_that_leaves_the_chain_reopens_the_proof(rig: Rig, node: Headers) -> None:
    rig.with_node(node)
    rig.anchor()
    height = rig.calendars[0].anchor(node)
    rig.confirm()
    node.reorganise(height)
    rig.clock.now += HOUR
    result = rig.confirm().result
    assert [(one["was"], one["now"]) for one in result["changed"]] == [("verified", "reorged")]
    assert rig.attested["status"] == "reorged"
    again = rig.calendars[2].anchor(node)
    node.bury(2)
    rig.clock.now += HOUR
    rig.confirm()
    assert (rig.attested["status"], rig.attested["block"]) == ("final", again)
    assert rig.site.verify().ok


@pytest.mark.parametrize("kind", BAD)
def test_bad_answers_to_questions_change_nothing(rig: Rig, node: Headers, kind: str) -> None:
    rig.with_node(node)
    rig.rail |= {"timeout": "300ms"} if kind in SLOW else {}
    rig.anchor()
    before = rig.proof.read_bytes()
    height = rig.calendars[2].anchor(node)
    bad = BAD[kind][0] or says(200, b"\0\x05\x88\x96\x0d\x73\xd7\x19\x01\x01\x07more")
    rig.calendars[0].on_question = rig.calendars[1].on_question = rig.calendars[2].on_question = bad
    worse = rig.confirm()
    assert (worse.result["open"], rig.proof.read_bytes()) == (1, before)
    assert len(worse.result["warnings"]) == 3
    outside = kind not in ("garbage", "a timestamp with something behind it")
    assert worse.code == (Exit.BUSY if outside else 0), "a pass in which nobody answered has failed"
    rig.calendars[2].on_question = None
    rig.clock.now += HOUR
    better = rig.confirm()
    assert (better.code, rig.attested["block"]) == (0, height)


def test_a_node_that_is_down_or_elsewhere_fails_the_pass_and_loses_nothing(rig: Rig, node: Headers) -> None:
    rig.with_node(node)
    rig.anchor()
    node.failing = True
    down = rig.confirm()
    assert (down.code, down.result["status"], down.result["open"]) == (Exit.BUSY, "failed", 1)
    node.failing, node.chain = False, "main"
    answer = rig.confirm()
    assert (answer.code, "is on mainnet, not on regtest" in answer.result["message"]) == (Exit.CONFIG, True)
    assert rig.site.verify().ok


def test_accepted_but_never_anchored_is_overdue(rig: Rig) -> None:
    rig.anchor()
    rig.clock.now += 24 * HOUR
    assert "code" not in rig.confirm().result
    rig.clock.now += 1
    result = rig.confirm().result
    assert (result["status"], result["code"]) == ("ok", "overdue")
    assert result["overdue"] == [{"batch": "1700-1", "namespace": "demo:files", "seconds": 24 * HOUR + 1}]
    assert rig.site.verify().ok


def test_an_overdue_batch_is_given_to_the_calendars_once_more(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    for one in rig.calendars:
        one.waiting.clear()  # as after a disaster at the calendar
    rig.clock.now += 25 * HOUR
    assert rig.confirm().result["code"] == "overdue"
    assert [len(set(one.digests)) for one in rig.calendars] == [1, 1, 1]
    assert [len(one.digests) for one in rig.calendars] == [2, 2, 2]
    rig.confirm()
    assert [len(one.digests) for one in rig.calendars] == [2, 2, 2], "not at every pass"
    height = rig.calendars[0].anchor(node)
    rig.clock.now += HOUR
    assert "code" not in rig.confirm().result
    assert rig.attested["block"] == height


def test_a_batch_that_too_few_took_is_tried_again_by_the_next_pass(rig: Rig) -> None:
    for one in rig.calendars[1:]:
        one.on_digest = says(503)
    assert rig.anchor().code == Exit.BUSY
    for one in rig.calendars[1:]:
        one.on_digest = None
    result = rig.confirm().result
    assert result["phases"] == {"submitted": 1}
    assert rig.site.verify().ok
    assert len({digest for one in rig.calendars for digest in one.digests}) == 1


def test_calendars_are_asked_seldom_about_what_is_old(rig: Rig) -> None:
    rig.anchor()
    rig.clock.now += 2 * HOUR
    rig.confirm()
    asked = len(rig.calendars[0].asked)
    rig.clock.now += ots_confirm.LONGEST_WAIT_S - 1
    rig.confirm()
    assert len(rig.calendars[0].asked) == asked
    rig.clock.now += 1
    rig.confirm()
    assert len(rig.calendars[0].asked) == asked + 1


def test_a_calendar_that_is_down_is_asked_once_in_a_pass(rig: Rig) -> None:
    rig.anchor()
    rig.batch = rig.site.put_batch("1700-2")
    rig.anchor()
    rig.calendars[0].on_question = says(500)
    assert rig.confirm().code == 0
    assert [len(one.asked) for one in rig.calendars] == [1, 2, 2]


def test_a_superbatch_speaks_for_its_members(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    other = rig.site.put_batch("1700-2", createdAt=1_700_000_001)
    members = [{"id": each["id"], "root": each["root"]} for each in (rig.batch, other)]
    told = {"directory": str(rig.site.batches), "batches": members}
    combined = rig.site.ask("combine", told).result
    rig.batch = {"id": combined["id"], "root": combined["root"], "file": combined["file"]}
    assert rig.anchor().code == 0
    rig.calendars[0].anchor(node)
    rig.confirm()
    for name in ("1700-1", "1700-2"):
        anchor = rig.site.read(f"out/receipts/batches/{name}.json")["anchor"]
        assert (anchor["chain"], anchor["block"], anchor["via"]["batch"]) == ("ots:public", 1, combined["id"])
    assert rig.site.verify().ok
    assert rig.online() == []


def test_a_root_that_came_alone_gets_its_later_receipts(rig: Rig, node: Headers) -> None:
    """There is no batch file of it, and never was."""
    rig.with_node(node, 1)
    Path(rig.batch.pop("file")).unlink()
    assert rig.anchor().code == 0
    height = rig.calendars[0].anchor(node)
    done = rig.confirm().result
    assert (done["warnings"], done["phases"]) == ([], {"final": 1})
    assert rig.attested["block"] == height
    assert rig.site.verify().ok
    assert rig.confirm().result["warnings"] == []


def test_a_batch_file_that_is_gone_is_no_root_that_came_alone(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    assert rig.anchor().code == 0
    Path(rig.batch["file"]).unlink()
    rig.calendars[0].anchor(node)
    (said,) = rig.confirm().result["warnings"]
    assert "is gone" in said


def test_one_unreadable_proof_does_not_stop_the_others(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    book = Book(rig.site.out, "ots:public")
    spoilt = book.get("1700-1")
    assert spoilt is not None
    book.put(replace(spoilt, raw=spoilt.raw[:80], told=False))
    rig.batch = rig.site.put_batch("1700-2", createdAt=1_700_000_001)
    rig.anchor()
    height = rig.calendars[0].anchor(node)
    for _ in range(2):
        rig.clock.now += HOUR
        done = rig.confirm()
        assert (done.code, done.result["phases"]) == (0, {"submitted": 1, "final": 1})
        assert [said.partition(": ")[0] for said in done.result["warnings"]] == ["batch 1700-1"]
    assert rig.attested["block"] == height


def test_flipped_bytes_of_proof_receipt_or_book_fail(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    rig.calendars[0].anchor(node)
    rig.confirm()
    assert rig.site.verify().ok
    receipt, book = "receipts/batches/1700-1.json", "submissions/ots-public/1700-1.json"
    for path in (rig.proof, rig.site.out / receipt, rig.site.out / book):
        raw = path.read_bytes()
        for place in range(0, len(raw), max(1, len(raw) // 60)):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            assert not rig.site.verify("1700-1").ok, f"{path} byte {place}"
        path.write_bytes(raw)
    assert rig.site.verify().ok


def test_a_changed_anchor_in_a_v0_receipt_is_seen_by_the_book(rig: Rig) -> None:
    """These have no digest of their own."""
    leaf = rig.batch["leaves"][0]
    paths = [hash_text(node) for node in v0_path([hash_bytes(text) for text in rig.batch["leaves"]], 0)]
    event = {"eventHash": leaf, "batchRoot": rig.batch["root"], "path": paths, "eventId": "e1"}
    receipt = rig.site.write("out/receipts/e1.json", json.dumps(event))
    rig.anchor()
    assert rig.site.verify().ok
    good = json.loads(receipt.read_text())
    for name, value in {"ts": START - HOUR, "status": "final", "need": 9, "calendars": []}.items():
        changed = [{**good["anchors"][0], name: value}]
        receipt.write_text(json.dumps({**good, "anchors": changed, "anchor": changed[0]}))
        assert not rig.site.verify().ok, name


def test_a_receipt_that_names_another_commitment_fails_without_the_book_too(rig: Rig) -> None:
    rig.anchor()
    shutil.rmtree(rig.site.out / "submissions")
    assert rig.site.verify().ok
    path = rig.site.out / "receipts/batches/1700-1.json"
    document = json.loads(path.read_text())
    changed = [{**document["anchors"][0], "tx": hash_text(bytes(32))}]
    path.write_text(render(with_digest({**document, "anchors": changed, "anchor": changed[0]})))
    assert "does not hold the commitment that the receipt names" in str(rig.site.failures())


def test_what_another_process_added_meanwhile_is_kept(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    book, fourth = Book(rig.site.out, "ots:public"), Calendar("http://127.0.0.1:14788")

    def meanwhile(handler: BaseHTTPRequestHandler) -> None:
        one = book.get("1700-1")
        assert one is not None
        at = hash_bytes(one.tx)
        proof = ots_proof.grafted(bytes.fromhex(one.raw), hash_bytes(one.root), at, fourth.take(at))
        book.put(replace(one, raw=proof.hex(), told=False))
        send(handler, 404, b"Pending")

    rig.calendars[0].on_question = meanwhile
    rig.calendars[1].anchor(node)
    rig.confirm()
    contents = rig.contents()
    assert fourth.uri in {promise.uri for promise in contents.promises}
    assert len(contents.blocks) == 1


def test_who_drips_bytes_is_cut_off_by_the_time_limit(rig: Rig) -> None:
    rig.calendars[0].on_digest = drip
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"no answer within 0.3 s"):
        fetch(endpoint(rig.calendars[0].uri), Ask("/digest", b"x"), timeout_s=0.3, limit=10_000)
    assert time.monotonic() - began < 3


def test_every_flipped_byte_of_a_proof_is_seen(rig: Rig) -> None:
    rig.anchor()
    raw = rig.proof.read_bytes()
    for place in range(len(raw)):
        rig.proof.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert not rig.site.verify("1700-1").ok, place


def test_a_proof_that_was_exchanged_is_kept_aside_not_overwritten(rig: Rig, node: Headers) -> None:
    rig.anchor()
    rig.proof.write_bytes(b"somebody's")
    rig.calendars[0].anchor(node)
    result = rig.confirm().result
    assert "kept as 1700-1." in result["warnings"][0]
    assert [path.read_bytes() for path in rig.proof.parent.glob("*.aside")] == [b"somebody's"]
    assert rig.site.verify().ok


def test_verify_of_a_proof_file_alone(rig: Rig, node: Headers) -> None:
    rig.anchor()
    rows = rig.site.verify(str(rig.proof)).rows
    assert [(row.kind, row.ok) for row in rows] == [("proof", True)]
    assert "of batch 1700-1: pending at" in rows[0].detail
    (rig.site.batches / "1700-1.json").unlink()
    assert "which is no batch's root here" in rig.site.failures(str(rig.proof))[0].detail


def test_online_asks_the_node_and_says_what_it_found(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    assert rig.online() == [], "what is pending names no block"
    height = rig.calendars[0].anchor(node)
    rig.confirm()
    assert rig.online() == []
    assert "anchors.yaml has no entry" in rig.online(listed=False)[0]
    node.reorganise(height)
    assert "another merkle root" in rig.online()[0]
    node.failing = True
    assert "HTTP 503" in rig.online()[0]
    rig.rail = {}
    assert rig.online() == [], "without a node the row says what is left to compare"


def test_without_the_library_nothing_passes_silently(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.anchor()
    monkeypatch.setitem(sys.modules, "opentimestamps.core", None)
    assert "pip install 'vmsh-scheduler[ots]'" in rig.site.failures()[0].detail
    rig.batch = rig.site.put_batch("1700-2")
    answer = rig.anchor()
    assert (answer.code, "vmsh-scheduler[ots]" in answer.result["message"]) == (Exit.CONFIG, True)


@pytest.mark.parametrize("place", range(0, 180, 7))
def test_answers_with_any_byte_changed_never_spoil_a_proof(place: int) -> None:
    one = Calendar(uri="http://127.0.0.1:14788")
    nonce = bytes(16)
    at = ots_proof.commitment(ROOT, nonce)
    good = one.take(at)
    proof = ots_proof.stamped(ROOT, nonce, [good])
    for change in (1, 2, 0x80, 0xFF):
        bad = bytearray(good)
        bad[place % len(good)] ^= change
        try:
            grown = ots_proof.grafted(proof, ROOT, at, bytes(bad))
        except Garbled:
            continue
        assert set(ots_proof.contents(proof, ROOT).promises) <= set(ots_proof.contents(grown, ROOT).promises)
        assert ots_proof.united(proof, grown, ROOT) == grown


def test_a_proof_cannot_be_made_too_deep_for_other_clients() -> None:
    nonce, at = bytes(16), ots_proof.commitment(ROOT, bytes(16))
    one = Calendar(uri="http://127.0.0.1:14788")
    proof = ots_proof.stamped(ROOT, nonce, [one.take(at)])
    promise = ots_proof.contents(proof, ROOT).promises[0]
    deep = b"\x08" * 253 + one.take(bytes(32))[-len(pending_end(one)) :]
    with pytest.raises(Garbled):
        ots_proof.grafted(proof, ROOT, promise.commitment, deep)


def pending_end(one: Calendar) -> bytes:
    """The attestation at the end of a calendar's answer."""
    uri = one.uri.encode()
    inner = bytes([len(uri)]) + uri
    return b"\0" + bytes.fromhex("83dfe30d2ef90c8e") + bytes([len(inner)]) + inner


def official(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The reference client, without its cache."""
    command = [sys.executable, "-c", "from otsclient.ots import main; main()", "--no-cache", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_official_client_verifies_our_proofs(rig: Rig, node: Headers, tmp_path: Path) -> None:
    rig.with_node(node, 1)
    rig.anchor()
    height = rig.calendars[0].anchor(node)
    rig.confirm()
    network = ["--btc-regtest", "--bitcoin-node", node.url.replace("//", "//user:word@"), "verify"]
    by_digest = official(*network, "-d", rig.batch["root"][7:], str(rig.proof))
    assert f"Success! Bitcoin block {height} attests existence" in by_digest.stderr
    assert by_digest.returncode == 0
    other = official(*network, "-d", "ab" * 32, str(rig.proof))
    assert (other.returncode, "does not match digest" in other.stderr) == (1, True)
    copy = tmp_path / "upgraded.ots"
    copy.write_bytes(rig.proof.read_bytes())
    assert f"BitcoinBlockHeaderAttestation({height})" in official("info", str(copy)).stdout


def test_the_official_client_upgrades_our_pending_proofs(rig: Rig, node: Headers, tmp_path: Path) -> None:
    rig.anchor()
    rig.calendars[0].anchor(node)
    copy = tmp_path / "pending.ots"
    copy.write_bytes(rig.proof.read_bytes())
    upgraded = official("-l", rig.calendars[0].uri, "upgrade", str(copy))
    assert "Success! Timestamp complete" in upgraded.stderr
    rig.confirm()
    assert ots_proof.contents(copy.read_bytes(), hash_bytes(rig.batch["root"])).blocks == rig.contents().blocks


def killed(verb: str, requests: list[Document]) -> list[Document]:
    """Per step: where it died, then what it said when it came again."""
    told = json.dumps({"verb": verb, "requests": requests})
    command = [sys.executable, "-m", "tests.support.ots_kills"]
    env = {**os.environ, **UNMEASURED}
    done = subprocess.run(command, input=told, env=env, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kill_9_at_every_step_of_a_stamp_loses_nothing_and_stamps_once(rig: Rig) -> None:
    requests = []
    for step in range(30):
        rig.batch = rig.site.put_batch(f"1700-{step}", leaves=step + 1)
        requests.append(rig.request())
    lines = killed("ots", requests)
    died = [line["died"] for line in lines[::2]]
    assert len(died) >= 16
    assert {"after an answer", "before a file", "after a file"} <= set(died)
    for number, again in enumerate(lines[1::2]):
        assert (again["code"], again["phase"]) == (0, "submitted"), died[number]
        rig.batch = {"id": f"1700-{number}", "root": requests[number]["batch"]["root"]}
        assert rig.attested == again["attestation"]
    distinct = {digest for one in rig.calendars for digest in one.digests}
    assert len(distinct) == len(died) + 1, "one commitment for each batch; the last run lived"
    assert rig.site.verify().ok


def test_kill_9_at_every_step_of_a_confirmation_loses_nothing(rig: Rig, node: Headers) -> None:
    rig.with_node(node, 1)
    requests = []
    for step in range(24):
        rig.site = Site(rig.site.root.parent / f"site{step}")
        rig.batch = rig.site.put_batch("1700-1", leaves=step + 1)
        rig.anchor()
        requests.append(rig.request())
    rig.calendars[0].anchor(node)
    lines = killed("confirm", requests)
    died = [line["died"] for line in lines[::2]]
    assert len(died) >= 10
    for number, again in enumerate(lines[1::2]):
        assert (again["code"], again["phases"]) == (0, {"final": 1}), died[number]
        site = Site(rig.site.root.parent / f"site{number}")
        assert site.verify().ok, died[number]
        assert site.read("out/receipts/batches/1700-1.json")["anchor"]["status"] == "final", died[number]


def test_a_key_in_the_path_of_a_calendar_is_never_said(rig: Rig) -> None:
    for one in rig.calendars:
        one.on_digest = says(200, b"no timestamp")
    rig.rail = {"calendars": [f"{one.uri}/key-4711-of-mine" for one in rig.calendars]}
    answer = rig.anchor()
    assert answer.code == Exit.BUSY
    assert "no readable timestamp" in answer.result["message"]
    assert "4711" not in json.dumps(answer.result)


def test_a_clock_that_was_ahead_does_not_keep_calendars_from_being_asked(rig: Rig) -> None:
    rig.anchor()
    rig.clock.now += HOUR
    rig.confirm()
    rig.clock.now -= HOUR // 2
    asked = len(rig.calendars[0].asked)
    rig.confirm()
    assert len(rig.calendars[0].asked) == asked + 1


def test_credentials_of_a_private_calendar_are_sent_and_never_said(rig: Rig) -> None:
    seen: list[str | None] = []

    def check(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        send(handler, 403, b"")

    for one in rig.calendars:
        one.on_digest = check
    rig.rail = {"calendars": [one.uri.replace("//", "//me:topsecret@") for one in rig.calendars]}
    answer: Any = rig.anchor()
    assert seen == ["Basic " + base64.b64encode(b"me:topsecret").decode()] * 3
    assert answer.code == Exit.BUSY
    assert "topsecret" not in json.dumps(answer.result)
    assert not any(b"topsecret" in path.read_bytes() for path in rig.site.out.rglob("*") if path.is_file())
