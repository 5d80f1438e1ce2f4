"""One cadence on `ots:` from the configuration files to a proof that a node bears out."""

import json
import subprocess
import sys

import pytest

from tests.support.calendar import calendars, header_node
from tests.support.daemon import Document, Place

NAMESPACES = """\
namespaces:
  demo:files:
    seal: {files: ["*.txt"]}
    cadence:
      fast: {target: "ots:public", every: 1h}
"""
ANCHORS = """\
ots:
  public:
    calendars: ["${FIRST}", "%s", "%s"]
    need: 3
    btc: regtest
btc:
  default: {rpcUrl: "${BTC_RPC}", confirmations: 2}
"""


def confirm(place: Place, rail: Document, **environ: str) -> Document:
    told = {"root": str(place.root), "target": "ots:public", "rail": rail, "railName": "public"}
    done = subprocess.run(
        [sys.executable, "-m", "vmsh_scheduler.anchors", "confirm"],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        env=place.env(environ),
        timeout=30,
        check=True,
    )
    result: Document = json.loads(done.stdout.splitlines()[-1])
    return result


def test_from_the_configuration_to_a_block(place: Place) -> None:
    with calendars(3) as three, header_node() as node:
        place.environ |= {"FIRST": three[0].uri, "BTC_RPC": node.url}
        place.configure(NAMESPACES, anchors=ANCHORS % (three[1].uri, three[2].uri))
        place.write("a.txt", "a")
        place.cli("validate-config").ok()
        assert place.cli("tick", "--json").ok().json["succeeded"] == 1
        (proof,) = (place.root / "out/attestations/ots/public").iterdir()
        (row,) = [row for row in rows(place) if row["kind"] == "receipt"]
        assert row["detail"].startswith("ots:public (pending at http://127.0.0.1:")
        rail = {
            "calendars": ["${FIRST}", three[1].uri, three[2].uri],
            "need": 3,
            "btc": {"regtest": {"rpcUrl": "${BTC_RPC}", "confirmations": 2}},
        }
        height = three[1].anchor(node)
        assert confirm(place, rail)["phases"] == {"verified": 1}
        node.bury(1)
        assert confirm(place, rail)["phases"] == {"final": 1}
        (row,) = [row for row in rows(place, "--online") if row["kind"] == "receipt"]
        assert f"in Bitcoin block {height}" in row["detail"]
        node.reorganise(height)
        assert place.cli("verify", "--online").code == 1
        raw = proof.read_bytes()
        proof.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        assert place.cli("verify").code == 1


def rows(place: Place, *more: str) -> list[Document]:
    listed: list[Document] = place.cli("verify", "--json", *more).ok().json["rows"]
    return listed


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("calendars: [https://a.example, https://a.example/]", "ots.public.calendars: names one twice"),
        ("{calendars: [https://a.example], need: 2}", "ots.public.need: is more than there are calendars"),
        ("need: 1", "ots.public.calendars: required key is missing"),
        ("{calendars: [https://a.example], btc: mainnet}", "ots.public.btc: must name an entry of btc"),
        ("{calendars: [https://a.example], btc: moonnet}", "ots.public.btc: no target can have this name"),
        (
            "{calendars: [https://a.example], btc: regtest}",
            "btc.regtest.rpcUrl: environment variable NOWHERE is not set",
        ),
        ('{calendars: ["https://me:word@a.example"]}', "no user information in a URL"),
    ],
)
def test_what_an_entry_lacks_is_said_before_it_is_used(place: Place, entry: str, said: str) -> None:
    text = entry if entry.startswith("{") else "{" + entry + "}"
    other = 'btc: {regtest: {rpcUrl: "${NOWHERE}"}}'
    place.configure(NAMESPACES, anchors=f"ots: {{public: {text}}}\n{other}\n")
    done = place.cli("validate-config")
    assert done.code == 78
    assert said in done.err + done.out
