"""`tsa` against authorities made by OpenSSL: what is believed, what is refused and how, and what is recorded."""

import base64
import json
import os
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Answer, Document, Site
from tests.support.tsa import OTHER_POLICY, PASSWORD, POLICY, USER, Tsa
from vmsh_scheduler.anchors import disk, receipts, timestamp
from vmsh_scheduler.anchors.timestamp import BadToken, Question
from vmsh_scheduler.anchors.trust import Bundle, Trust, bundle
from vmsh_scheduler.errors import ConfigError, Exit

pytestmark = pytest.mark.needs("openssl")

FREETSA = Path(__file__).parents[1] / "data" / "freetsa"
FREETSA_TIME = 1760915646
"""2025-10-19 23:14:06 UTC, as `openssl ts -reply -text` prints it."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def entry(tsa: Tsa, path: str = "/tsr", **more: object) -> Document:
    return {"url": tsa.url(path), "trustBundle": str(tsa.root), "timeout": "10s", **more}


def sealed(site: Site) -> Document:
    site.write("a.txt", "a")
    return site.seal("*.txt").result


def stamp(site: Site, rail: Document, environ: dict[str, str] | None = None, **more: object) -> Answer:
    """Of the newest batch; seals one first."""
    facts = {"target": "rfc3161:tsa", "rail": rail, "railName": "tsa", **more}
    return site.ask("tsa", site.request(sealed(site), **facts), environ)


def believe(site: Site, tsa: Tsa, names: str = "default") -> None:
    entries = "".join(f"  {name}: {{trustBundle: '{tsa.at / pem}.pem'}}\n" for name, pem in _pairs(names))
    site.write("config/anchors.yaml", "rfc3161:\n" + entries)


def _pairs(names: str) -> list[tuple[str, str]]:
    found = [pair.partition("=") for pair in names.split()]
    return [(name, pem or "root") for name, _, pem in found]


def anchors(site: Site) -> list[Document]:
    (path,) = (site.out / "receipts" / "batches").glob("*.json")
    found: list[Document] = receipts.read(path)["anchors"]
    return found


def nothing_recorded(site: Site) -> bool:
    return not list((site.out / "receipts").rglob("*.json"))


def test_a_stamp_is_recorded_as_the_spec_says_and_verifies(site: Site, tsa: Tsa) -> None:
    before = int(time.time())
    answer = stamp(site, entry(tsa))
    assert answer.code == 0, answer.result
    (anchor,) = anchors(site)
    assert (anchor["chain"], anchor["block"], anchor["memo"]) == ("rfc3161:tsa", 0, "")
    assert before <= anchor["ts"] <= time.time() + 1
    reply = base64.b64decode(anchor["sig"])
    assert anchor["tx"] == f"tsr:sha256:{sha256(reply).hexdigest()}"
    assert "sig" not in answer.result["attestation"]
    assert answer.result["attestation"]["serial"] == anchor["serial"]
    believe(site, tsa)
    rows = site.verify().rows
    assert not [row for row in rows if not row.ok]
    assert "rfc3161:tsa" in [row.detail for row in rows if row.kind == "receipt"]


def test_the_imprint_is_the_hash_of_the_root_and_each_request_has_its_own_nonce() -> None:
    root = bytes(range(32))
    one, other = timestamp.question(root), timestamp.question(root)
    assert one.imprint == sha256(root).digest()
    assert one.imprint in one.body
    assert one.nonce != other.nonce


def test_a_batch_that_is_stamped_is_not_stamped_again(site: Site, tsa: Tsa) -> None:
    stamp(site, entry(tsa))
    first = anchors(site)
    again = stamp(site, entry(tsa))
    assert (again.code, again.result["added"]) == (0, 0)
    assert anchors(site) == first
    assert tsa.asked == ["/tsr"]


def test_members_of_a_super_batch_are_stamped_through_it(site: Site, tsa: Tsa) -> None:
    members = [site.put_batch(f"170000000{number}", leaves=2) for number in range(3)]
    wanted = {
        "directory": str(site.batches),
        "namespace": "ns",
        "batches": [{"id": each["id"], "root": each["root"]} for each in members],
    }
    combined = site.ask("combine", wanted).result
    facts = {"target": "rfc3161:tsa", "rail": entry(tsa), "railName": "tsa"}
    assert site.ask("tsa", site.request(combined, **facts)).code == 0
    believe(site, tsa)
    assert not site.failures()
    assert len(list((site.out / "receipts" / "batches").glob("*.json"))) == 4


@pytest.mark.parametrize("asked", ["entry", "variable", "cadence"])
def test_a_policy_is_asked_for_and_granted(site: Site, tsa: Tsa, asked: str) -> None:
    rail = entry(tsa, policyOID=OTHER_POLICY if asked == "entry" else '${TSA_POLICY_OID:-""}')
    environ = {"TSA_POLICY_OID": OTHER_POLICY} if asked == "variable" else {}
    more = {"policyOID": OTHER_POLICY} if asked == "cadence" else {}
    assert stamp(site, rail, environ, **more).code == 0
    assert anchors(site)[0]["memo"] == f"tsaPolicyOID={OTHER_POLICY}"
    believe(site, tsa)
    assert not site.failures()


def test_a_token_that_names_its_signer_is_taken_whoever_made_it(site: Site, tsa: Tsa) -> None:
    assert stamp(site, entry(tsa, "/cades")).code == 0


def test_an_empty_default_is_no_policy(site: Site, tsa: Tsa) -> None:
    assert stamp(site, entry(tsa, policyOID='${TSA_POLICY_OID:-""}')).code == 0
    assert anchors(site)[0]["memo"] == ""


def test_an_unsorted_set_of_certificates_is_put_in_order(site: Site, tsa: Tsa) -> None:
    client: Any = timestamp.library()
    asked = timestamp.question(bytes(32))
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        client.decode_timestamp_response(tsa.answer("/unsorted", asked.body, "")[2])
    assert stamp(site, entry(tsa, "/unsorted")).code == 0
    believe(site, tsa)
    assert not site.failures()


def test_intermediates_of_the_bundle_help_but_are_not_believed(site: Site, tsa: Tsa, tmp_path: Path) -> None:
    lone = tmp_path / "inter-only.pem"
    lone.write_bytes((tsa.at / "inter.pem").read_bytes())
    refused = stamp(site, entry(tsa, trustBundle=str(lone)))
    assert (refused.code, "no root certificate" in refused.result["message"]) == (Exit.CONFIG, True)
    both = tmp_path / "both.pem"
    both.write_bytes((tsa.at / "inter.pem").read_bytes() + tsa.root.read_bytes())
    assert stamp(site, entry(tsa, trustBundle=str(both))).code == 0


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/rogue", Exit.STATE_UNREADABLE, "leads to no certificate of the trust bundle: certificate verify error"),
        ("/mixed", Exit.STATE_UNREADABLE, "not for time stamps alone"),
        ("/anonymous", Exit.STATE_UNREADABLE, "does not name the certificate that signed it"),
        ("/bare", Exit.STATE_UNREADABLE, "does not name the certificate that signed it"),
        ("/sha1", Exit.STATE_UNREADABLE, "signed over a hash that is no SHA-2"),
        ("/reject", Exit.STATE_UNREADABLE, "rejected the request, status 2 (bad data format)"),
        ("/mods", Exit.STATE_UNREADABLE, "granted something else"),
        ("/unavailable", Exit.BUSY, "system failure"),
        ("/html", Exit.UNAVAILABLE, "web page"),
        ("/empty", Exit.UNAVAILABLE, "empty reply"),
        ("/garbage", Exit.STATE_UNREADABLE, "no time stamp"),
        ("/big", Exit.STATE_UNREADABLE, "larger than 65536 bytes"),
        ("/500", Exit.BUSY, "HTTP 500"),
        ("/503", Exit.BUSY, "HTTP 503"),
        ("/404", Exit.STATE_UNREADABLE, "HTTP 404"),
        ("/302", Exit.UNAVAILABLE, "redirects elsewhere"),
        ("/auth", Exit.DENIED, "HTTP 401"),
    ],
)
def test_what_is_no_sound_stamp_is_classified_and_leaves_nothing(
    site: Site, tsa: Tsa, path: str, code: Exit, said: str
) -> None:
    answer = stamp(site, entry(tsa, path))
    assert (answer.code, said in answer.result["message"]) == (code, True), answer.result
    assert nothing_recorded(site)
    assert tsa.asked == [path]


@pytest.mark.parametrize("path", ["/", "/tsr/", "/tsr/?account=9", "/tsr?to=a/"])
def test_the_address_is_asked_as_it_is_written(site: Site, tsa: Tsa, path: str) -> None:
    assert stamp(site, entry(tsa, path)).code == 0
    assert tsa.asked == [path]


def test_another_policy_than_asked_for_is_refused(site: Site, tsa: Tsa) -> None:
    answer = stamp(site, entry(tsa, "/policy", policyOID=OTHER_POLICY))
    assert answer.code == Exit.STATE_UNREADABLE
    assert f"under policy {POLICY}, not {OTHER_POLICY}" in answer.result["message"]
    assert nothing_recorded(site)


def test_a_policy_that_the_authority_does_not_have_is_refused_by_it(site: Site, tsa: Tsa) -> None:
    answer = stamp(site, entry(tsa, policyOID="1.3.9.9"))
    assert (answer.code, "unaccepted policy" in answer.result["message"]) == (Exit.STATE_UNREADABLE, True)


def test_a_replayed_reply_is_refused(site: Site, tsa: Tsa, tmp_path: Path) -> None:
    assert stamp(site, entry(tsa, "/replay")).code == 0
    (path,) = (site.out / "receipts" / "batches").glob("*.json")
    path.unlink()
    answer = stamp(site, entry(tsa, "/replay"))
    assert (answer.code, "another nonce" in answer.result["message"]) == (Exit.STATE_UNREADABLE, True)
    other = Site(tmp_path / "other")
    other.root.mkdir()
    other.write("b.txt", "b")
    assert "another root" in stamp(other, entry(tsa, "/replay")).result["message"]
    assert nothing_recorded(site)


@pytest.mark.parametrize("path", ["/drip", "/held"])
def test_the_time_limit_is_on_everything_together(site: Site, tsa: Tsa, path: str) -> None:
    began = time.monotonic()
    answer = stamp(site, entry(tsa, path, timeout="300ms"))
    assert time.monotonic() - began < 5
    assert (answer.code, "within 0.3 s" in answer.result["message"]) == (Exit.BUSY, True)
    assert nothing_recorded(site)


def test_nobody_listens(site: Site, tsa: Tsa) -> None:
    answer = stamp(site, {**entry(tsa), "url": "http://127.0.0.1:1/tsr"})
    assert (answer.code, "cannot be reached" in answer.result["message"]) == (Exit.BUSY, True)


@pytest.mark.parametrize("by", ["variable", "file", "credential", "url"])
def test_credentials_come_from_elsewhere_and_are_never_shown(
    site: Site, tsa: Tsa, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(site.root / "creds"), "PW": PASSWORD}
    given = {"variable": "password", "file": "passwordFile", "credential": "passwordCredential"}.get(by, "")
    site.write("creds/tsa-password", PASSWORD + "\n").chmod(0o600)
    values = {"password": "${PW}", "passwordFile": "creds/tsa-password", "passwordCredential": "tsa-password"}
    rail = entry(tsa, "/auth", **({"user": USER, given: values[given]} if given else {}))
    if by == "url":
        environ["TSA_URL"] = tsa.url("/auth").replace("//", f"//{USER}:{PASSWORD}@")
    assert stamp(site, rail, environ).code == 0
    refused = stamp(Site(site.root / "x"), {**rail, "url": tsa.url("/500")}, {**environ, "TSA_URL": ""})
    told = json.dumps(refused.result) + "".join(capsys.readouterr())
    assert PASSWORD not in told + (site.out / "receipts").joinpath("batches").glob("*.json").__next__().read_text()


def test_a_password_file_that_everybody_can_read_is_refused(site: Site, tsa: Tsa) -> None:
    site.write("pw", PASSWORD).chmod(0o644)
    answer = stamp(site, entry(tsa, "/auth", user=USER, passwordFile="pw"))
    assert (answer.code, "read by everybody" in answer.result["message"]) == (Exit.DENIED, True)


def group(tsa: Tsa, need: int = 2, **paths: str) -> Document:
    pem = {"/rogue": tsa.rogue}
    members = {
        name: {**entry(tsa, path, timeout="2s"), "trustBundle": str(pem.get(path, tsa.root))}
        for name, path in paths.items()
    }
    return {"need": need, "authorities": members}


def test_two_authorities_stamp_and_each_is_an_anchor_of_its_own(site: Site, tsa: Tsa) -> None:
    answer = stamp(site, group(tsa, one="/tsr", two="/rogue"))
    assert answer.code == 0, answer.result
    assert [anchor["chain"] for anchor in anchors(site)] == ["rfc3161:one", "rfc3161:two"]
    assert len(answer.result["attestations"]) == 2
    believe(site, tsa, "one two=rogue")
    assert not site.failures()
    believe(site, tsa, "one two")
    assert "rfc3161:two" in site.failures()[0].detail


def test_one_that_fails_is_a_warning_while_enough_others_stamp(site: Site, tsa: Tsa) -> None:
    answer = stamp(site, group(tsa, one="/tsr", two="/rogue", three="/500"))
    assert answer.code == 0
    assert "three: " in answer.result["warnings"][0]
    assert "HTTP 500" in answer.result["warnings"][0]


def test_two_names_of_one_authority_are_one(site: Site, tsa: Tsa) -> None:
    for other in ("/tsr", "/sister"):
        answer = stamp(site, group(tsa, one="/tsr", two=other))
        assert (answer.code, "share a key or a root" in answer.result["message"]) == (Exit.STATE_UNREADABLE, True)
    assert nothing_recorded(site)


def test_too_few_leave_nothing_and_say_when_to_try_again(site: Site, tsa: Tsa) -> None:
    later = stamp(site, group(tsa, one="/tsr", two="/500", three="/reject"))
    assert (later.code, later.result["code"]) == (Exit.BUSY, "too_few_stamps")
    assert "1 of 2 authorities" in later.result["message"]
    never = stamp(site, group(tsa, one="/tsr", two="/reject"))
    assert never.code == Exit.STATE_UNREADABLE
    assert nothing_recorded(site)


def test_a_clock_that_is_off_is_said(site: Site, tsa: Tsa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmsh_scheduler.anchors.tsa.now_s", lambda: int(time.time()) + 4_000)
    answer = stamp(site, entry(tsa))
    assert answer.code == 0
    assert "its clock and ours differ by" in answer.result["warnings"][0]


ROUNDS = 20


def test_killed_between_sent_and_recorded_nothing_is_half_done(site: Site, tsa: Tsa) -> None:
    """The authority has answered, nobody took it: the next run simply asks again."""
    for round_number in range(ROUNDS):
        site.write("a.txt", str(round_number))
        facts = {"target": "rfc3161:tsa", "rail": entry(tsa, "/held", timeout="30s"), "railName": "tsa"}
        request = site.request(site.seal("*.txt").result, **facts)
        tsa.arrived.clear()
        tsa.release.clear()
        process = site.start("tsa", request)
        assert tsa.arrived.wait(20)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        tsa.release.set()
        assert len(list((site.out / "receipts").rglob("*.json"))) == round_number
        assert site.ask("tsa", request).result["added"] == 1
    assert site.ask("tsa", request).result["added"] == 0
    believe(site, tsa)
    assert not site.failures()


def rewritten(site: Site, change: Callable[[Document], object]) -> None:
    """The receipt with another anchor, its digest made to fit: only the token itself can show it."""
    (path,) = (site.out / "receipts" / "batches").glob("*.json")
    document = json.loads(path.read_text())
    change(document["anchors"][0])
    document["anchor"] = document["anchors"][0]
    fresh = {name: value for name, value in document.items() if name != "digest"}
    path.write_text(receipts.render(receipts.with_digest(fresh)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda anchor: anchor.update(ts=anchor["ts"] - 86_400), "the token says"),
        (lambda anchor: anchor.update(serial="ff"), "serial"),
        (lambda anchor: anchor.update(tx="tsr:sha256:" + "0" * 64), "not the one that tx names"),
        (lambda anchor: anchor.update(memo=f"tsaPolicyOID={OTHER_POLICY}"), "under policy"),
        (lambda anchor: anchor.update(block=7), "the token says"),
        (lambda anchor: anchor.pop("sig"), "no token in it"),
        (lambda anchor: anchor.update(sig="!"), "not base64"),
        (lambda anchor: anchor.update(chain="rfc3161:other"), "no trustBundle"),
    ],
)
def test_an_attestation_that_says_something_else_than_its_token_fails(
    site: Site, tsa: Tsa, change: Callable[[Document], object], said: str
) -> None:
    stamp(site, entry(tsa))
    believe(site, tsa, "tsa")
    rewritten(site, change)
    (row,) = site.failures()
    assert said in row.detail


def test_any_flipped_bit_of_a_token_fails(site: Site, tsa: Tsa) -> None:
    """Also where the receipt around it was made to fit, but for `tx`."""
    stamp(site, entry(tsa))
    believe(site, tsa)
    whole = base64.b64decode(anchors(site)[0]["sig"])
    for position in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        rewritten(site, lambda anchor, bits=bytes(changed): anchor.update(sig=base64.b64encode(bits).decode()))
        assert site.failures(), position


def test_what_cannot_be_checked_fails_and_says_why(site: Site, tsa: Tsa, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp(site, entry(tsa))
    assert "names no trustBundle for rfc3161:tsa" in site.failures()[0].detail
    site.write("config/anchors.yaml", "rfc3161: {default: {trustBundle: gone.pem}}\n")
    assert "gone.pem: No such file" in site.failures()[0].detail
    site.write("config/anchors.yaml", 'rfc3161: {default: {trustBundle: "${ROOTS}"}}\n')
    assert "environment variable ROOTS is not set" in site.failures()[0].detail
    believe(site, tsa)
    assert not site.failures()
    monkeypatch.setitem(__import__("sys").modules, "rfc3161_client", None)
    assert "pip install 'vmsh-scheduler[tsa]'" in site.failures()[0].detail


def test_a_bundle_of_roots_that_cannot_be_read_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    """Although there is no time stamp to check. A FIFO with somebody at its other end never ends."""
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with large.open("wb") as file:
        file.truncate(disk.SMALL_LIMIT + 1)
    zero, loose = tmp_path / "zero", tmp_path / "loose.pem"
    zero.symlink_to("/dev/zero")
    loose.write_text("no certificates")
    told = {fifo: "no regular file", zero: "no regular file", large: "is larger than", tmp_path: "is a directory"}
    try:
        for path, said in {**told, loose: "no PEM file", tmp_path / "gone": "No such file"}.items():
            with pytest.raises(ConfigError, match=said):
                Trust(site.root, one=path)
            answer = site.ask("verify", {"trust": str(path)})
            assert (answer.code, said in answer.result["message"]) == (Exit.CONFIG, True)
    finally:
        os.close(end)


def test_a_proof_carries_its_stamps(site: Site, tsa: Tsa, tmp_path: Path) -> None:
    stamp(site, entry(tsa))
    proof = site.ask("proof", {"file": str(site.root / "a.txt")}).result["proof"]
    assert "ledger" not in proof
    path = site.write("proof.json", json.dumps(proof))
    believe(site, tsa)
    assert [row.kind for row in site.verify(str(path)).rows] == ["proof"]
    assert not site.failures(str(path))
    site.write("proof.json", json.dumps({**proof, "anchors": []}))
    assert "not a whole proof" in site.failures(str(path))[0].detail
    stranger = Site(tmp_path / "elsewhere")
    copied = stranger.write("proof.json", json.dumps(proof))
    assert "no trustBundle" in stranger.failures(str(copied))[0].detail
    assert stranger.ask("verify", {"what": str(copied), "trust": str(tsa.root)}).code == 0
    assert stranger.ask("verify", {"what": str(copied), "trust": str(tsa.rogue)}).code == 1


def freetsa() -> tuple[bytes, Question, Bundle]:
    """The root is pinned in a file beside; it was taken out of the token's own set."""
    reply = (FREETSA / "freetsa-real-token.tsr").read_bytes()
    client: Any = timestamp.library()
    request = (FREETSA / "freetsa-real-token.tsq").read_bytes()
    response = client.decode_timestamp_response(timestamp.der.with_certificates(reply))
    imprint = response.tst_info.message_imprint.message
    assert imprint in request
    return reply, Question(request, imprint, response.tst_info.nonce), bundle(FREETSA / "freetsa-root.pem")


def test_a_real_token_whose_signer_has_expired_verifies_at_its_own_time() -> None:
    reply, asked, trusted = freetsa()
    client: Any = timestamp.library()
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        client.decode_timestamp_response(reply)
    found = timestamp.checked(reply, asked, trusted)
    assert (found.gen_time, found.serial) == (FREETSA_TIME, 0x0174F695)


UNSIGNED = (range(2550, 2702), range(4657, 4658), range(4943, 4954))
"""Of the real token: the issuer's name in its own copy of the root, which nobody reads; how the signer's issuer is
encoded; the name of the signature's algorithm, which the certificate decides. `tx` of an attestation covers them."""


def test_a_real_token_with_one_bit_flipped_is_refused() -> None:
    """A bit of every seventh byte, but for those that mean nothing."""
    reply, asked, trusted = freetsa()
    passed = []
    for position in range(0, len(reply), 7):
        if any(position in part for part in UNSIGNED):
            continue
        changed = bytearray(reply)
        changed[position] ^= 1 << position % 8
        try:
            timestamp.checked(bytes(changed), asked, trusted)
        except BadToken:
            continue
        passed.append(position)
    assert passed == []


def test_a_real_token_is_not_believed_on_anothers_word(tsa: Tsa) -> None:
    reply, asked, _ = freetsa()
    with pytest.raises(BadToken, match="leads to no certificate"):
        timestamp.checked(reply, asked, bundle(tsa.root))


def test_os_is_not_asked_for_proxies(site: Site, tsa: Tsa) -> None:
    assert stamp(site, entry(tsa), {**os.environ, "http_proxy": "http://127.0.0.1:1"}).code == 0
