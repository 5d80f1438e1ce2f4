"""`on_anchor`: what a namespace's own command is told of an anchor, and that it can spoil none."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.site import Site
from vmsh_scheduler.anchors import hook

TELL = (
    "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open('told.json', 'w')); print('loud')"
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    return Site(tmp_path)


def test_it_is_told_the_attestation_and_no_secret(site: Site) -> None:
    batch = site.put_batch("1700000000", leaves=3)
    secret = {"EVM_ANCHOR_KEY": "0xsecret", "VMSH_KEYS": "keys", "PATH": "/usr/bin:/bin"}
    request = site.request(batch, "k", on_anchor=[sys.executable, "-c", TELL], rail={"key": "0xsecret"})
    done = site.ask("local", request, secret)
    assert (done.code, "warnings" in done.result) == (0, False)
    told, environment = json.loads((site.root / "told.json").read_text())
    assert told["attestation"] == done.result["attestation"]
    assert (told["namespace"], told["cadence"], told["target"]) == ("demo:files", "fast", "local:demo")
    assert told["batch"]["id"] == "1700000000"
    assert environment["VMSH_NAMESPACE"] == "demo:files"
    assert "secret" not in json.dumps([told, environment])
    assert "VMSH_KEYS" not in environment


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/bin/sh", "-c", "exit 3"], "/bin/sh ended with 3"),
        (["/nowhere/at/all"], "/nowhere/at/all: No such file or directory"),
        (["/bin/sh", "-c", "kill -9 $$"], "ended with -9"),
        (["/bin/sh", "-c", "exec 0<&-; exec sleep 60"], "was not done within 0.3 s"),
    ],
)
def test_its_failure_is_a_warning(site: Site, argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "PATIENCE_S", 0.3)
    done = site.anchor(site.put_batch("1700000000"), "k", on_anchor=argv)
    assert done.code == 0
    assert said in " ".join(done.result["warnings"])
    assert not site.failures()


def test_it_does_not_run_after_a_failure_or_another_verb(site: Site) -> None:
    argv = [sys.executable, "-c", TELL]
    batch = site.put_batch("1700000000")
    assert site.anchor({**batch, "root": "sha256:" + "0" * 64}, "k", on_anchor=argv).code != 0
    assert site.ask("verify", {"on_anchor": argv}).code == 0
    assert not (site.root / "told.json").exists()
