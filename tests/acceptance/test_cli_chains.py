"""A chain from the command line: a contract deployed, a batch anchored on its cadence, the receipt checked online."""

import json
from collections.abc import Iterator

import pytest

from tests.support.daemon import Place
from tests.support.evm import ETHER, Node, node
from tests.support.paying import a_key, secret_of
from tests.support.rpc_door import Door
from tests.support.stubs import put_batch

ANCHORS = """\
eip155:
  default:
    rpcUrl: "${{TEST_RPC}}"
    key: "${{TEST_KEY}}"
    confirmations: 2
{contract}
"""


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Node, Door]]:
    with node("py-evm") as made:
        yield made


def test_deployed_anchored_verified(place: Place, chain: tuple[Node, Door]) -> None:
    evm, door = chain
    evm.fund(a_key("owner").address, ETHER)
    target = f"eip155:{evm.chain_id}"
    place.environ |= {"TEST_RPC": door.url, "TEST_KEY": secret_of("owner").hex()}
    place.configure(f'namespaces:\n  ns:\n    cadence:\n      fast: {{target: "{target}", every: 1h}}\n')
    place.write("config/anchors.yaml", ANCHORS.format(contract=""))
    done = place.cli("deploy-contract", "--target", target).ok()
    line = done.out.strip().splitlines()[-1].strip()
    again = json.loads(place.cli("deploy-contract", "--target", target, "--json").ok().out)
    assert again["line"] == line
    assert again["address"] in done.out
    place.write("config/anchors.yaml", ANCHORS.format(contract=f"    {line}"))
    put_batch(place)
    place.cli("tick").ok()
    offline = place.cli("verify").ok()
    assert "ask with --online" in " ".join(offline.out.split())
    shallow = place.cli("verify", "--online", "--json")
    assert shallow.code == 1
    assert "1 of 2 confirmations" in shallow.out
    evm.mine(1)
    good = json.loads(place.cli("verify", "--online", "--json").ok().out)
    assert all("not checked" not in row["detail"] for row in good["rows"])
    receipt = json.loads((place.root / "out/receipts/batches/1.json").read_text())
    assert receipt["anchor"]["contract"] == again["address"]
    door.fail("*", "refused", times=1000)
    down = place.cli("verify", "--online", "--json")
    door.reset()
    assert down.code == 1


def test_a_target_without_an_entry(place: Place) -> None:
    place.configure("namespaces: {}\n")
    done = place.cli("deploy-contract", "--target", "eip155:5")
    assert done.code == 2
    assert "anchors.yaml" in done.err
    assert place.cli("deploy-contract", "--target", "nonsense").code == 2


def test_the_kill_switch_stops_a_deployment_and_says_where_it_stands(place: Place) -> None:
    place.configure("namespaces: {}\n")
    place.write("config/anchors.yaml", ANCHORS.format(contract=""))
    place.environ |= {"TEST_RPC": "http://127.0.0.1:9", "TEST_KEY": secret_of("owner").hex()}
    place.write("config/scheduler.yaml", "anchor_write_enabled: false\n")
    for where in ("scheduler.yaml", "env ANCHOR_WRITE_ENABLED"):
        refused = place.cli("deploy-contract", "--target", "eip155:5")
        assert refused.code == 2, refused.err
        assert "anchor_write_enabled is off (" in refused.err
        assert where in refused.err
        place.environ["ANCHOR_WRITE_ENABLED"] = "0"


def test_what_the_daemon_would_not_read_is_not_paid_by_either(place: Place) -> None:
    place.configure("namespaces: {}\n")
    place.write("config/anchors.yaml", ANCHORS.format(contract="")).chmod(0o666)
    place.environ |= {"TEST_RPC": "http://127.0.0.1:9", "TEST_KEY": secret_of("owner").hex()}
    refused = place.cli("deploy-contract", "--target", "eip155:5")
    assert refused.code == place.cli("validate-config").code == 78
    assert "chmod o-w" in refused.err
