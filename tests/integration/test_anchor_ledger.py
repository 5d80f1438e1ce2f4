"""The local ledger: appended once per key, signed for outsiders, whole after any crash, loud about any change."""

import base64
import json
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.support.site import Site
from vmsh_scheduler.anchors import disk, keys, ledger
from vmsh_scheduler.anchors.entries import Anchored
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.keys import KeyPlace
from vmsh_scheduler.anchors.ledger import Appended
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.errors import Busy, ConfigError, Denied, SchedulerError

ROOT = "sha256:" + "ab" * 32


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def append(site: Site, *numbers: int, key: str = "job/{}", origin: str = "") -> list[Appended]:
    place = KeyPlace(site.root / "state" / "keys")
    with ledger.opened(site.ledger, place, name="demo", origin=origin) as opened:
        return [
            opened.append(Anchored(f"b{number}", ROOT, "demo", "fast", key.format(number)), 1_700_000_000 + number)
            for number in numbers
        ]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_entries_stand_in_order_and_the_same_key_adds_nothing(site: Site) -> None:
    first = append(site, 0, 1, 2)
    again = append(site, 1)
    assert [item.entry.index for item in first] == [0, 1, 2]
    assert again[0].entry == first[1].entry
    assert (again[0].added, again[0].size) == (False, 3)
    assert len(lines(site.ledger / "entries.jsonl")) == len(lines(site.ledger / "checkpoints.jsonl")) == 3


def test_without_a_key_every_append_adds(site: Site) -> None:
    assert [item.entry.index for item in append(site, 1, 1, key="")] == [0, 1]


def test_the_same_key_with_another_root_is_another_entry(site: Site) -> None:
    append(site, 0)
    with ledger.opened(site.ledger, KeyPlace(site.root / "state/keys"), name="demo") as opened:
        other = opened.append(Anchored("b0", "sha256:" + "cd" * 32, key="job/0"), 1)
    assert (other.added, other.entry.index) == (True, 1)


def test_an_outsider_checks_the_checkpoint_with_ed25519_and_sha256_alone(site: Site) -> None:
    append(site, *range(5), origin="example.org/log")
    name, hexhash, encoded = (site.ledger / "key.pub").read_text().strip().split("+", 2)
    public = base64.b64decode(encoded)
    assert public[0] == 1
    assert hexhash == sha256(name.encode() + b"\n" + public).hexdigest()[:8]
    text, signature = (site.ledger / "checkpoint").read_text().split("\n\n")
    origin, size, root = text.split("\n")
    dash, signer, blob = signature.strip().split(" ")
    assert (dash, signer, origin) == ("—", name, "example.org/log")
    raw = base64.b64decode(blob)
    assert raw[:4].hex() == hexhash
    Ed25519PublicKey.from_public_bytes(public[1:]).verify(raw[4:], (text + "\n").encode())
    leaves = [sha256(b"\0" + line).digest() for line in lines(site.ledger / "entries.jsonl")]
    assert int(size) == len(leaves) == 5
    assert base64.b64decode(root) == merkle.root(leaves)


def test_the_private_key_is_private(site: Site) -> None:
    append(site, 0)
    key = site.root / "state/keys/demo.ed25519"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    secret = key.read_text().strip().split("+", 4)[4]  # base64, which may hold a plus itself
    assert not any(secret.encode() in path.read_bytes() for path in site.out.rglob("*") if path.is_file())
    key.chmod(0o644)
    with pytest.raises(Denied, match="can be read by others"):
        append(site, 1)


def test_a_lost_key_is_never_replaced(site: Site) -> None:
    append(site, 0)
    (site.root / "state/keys/demo.ed25519").unlink()
    with pytest.raises(ConfigError, match="is gone"):
        append(site, 1)
    keys.KeyPlace(site.root / "state/keys").make("demo", "vmsh.local/demo")
    with pytest.raises(ConfigError, match="another key"):
        append(site, 1)


def test_an_origin_is_fixed_when_the_ledger_is_made(site: Site) -> None:
    append(site, 0, origin="example.org/log")
    assert append(site, 1)[0].size == 2
    with pytest.raises(ConfigError, match="another key or origin"):
        append(site, 2, origin="example.org/other")
    with pytest.raises(ConfigError, match="plus sign"):
        append(site, 2, origin="a + b")


def test_a_credential_wins_over_the_key_file(site: Site, tmp_path: Path) -> None:
    signer = keys.KeyPlace(tmp_path / "elsewhere").make("demo", "example.org/credential")
    with ledger.opened(site.ledger, KeyPlace(site.root / "state/keys", tmp_path / "elsewhere"), name="demo") as opened:
        opened.append(Anchored("b", ROOT), 1)
    assert (site.ledger / "key.pub").read_text() == f"{signer.verifier}\n"
    assert not (site.root / "state/keys").exists()


def test_a_malformed_key_is_refused_without_showing_it(site: Site) -> None:
    place = site.write("state/keys/demo.ed25519", "PRIVATE+KEY+secretsecret")
    place.chmod(0o600)
    with pytest.raises(SchedulerError, match="not an Ed25519 signer key") as caught:
        append(site, 0)
    assert "secretsecret" not in str(caught.value)


def test_two_at_once_do_not_interleave(site: Site) -> None:
    append(site, 0)
    place = KeyPlace(site.root / "state/keys")
    with ExitStack() as held:
        held.enter_context(ledger.opened(site.ledger, place, name="demo"))
        with pytest.raises(Busy, match="locked"):
            held.enter_context(disk.locked(site.ledger, wait_s=0.02))


def unfinished(site: Site) -> Iterator[str]:
    """Every state in which a writer may have died, made from a whole ledger of four entries."""
    names = ("entries.jsonl", "checkpoints.jsonl", "checkpoint", "tail.json")
    append(site, 0, 1, 2)
    before = {name: (site.ledger / name).read_bytes() for name in names}
    append(site, 3)
    after = {name: (site.ledger / name).read_bytes() for name in names}
    steps = [("entries.jsonl", cut) for cut in (1, 40, len(after["entries.jsonl"]) - len(before["entries.jsonl"]))]
    for number in range(len(names) + len(steps)):
        for name in names:
            (site.ledger / name).write_bytes(before[name])
        if number < len(steps):
            torn = after["entries.jsonl"][: len(before["entries.jsonl"]) + steps[number][1]]
            (site.ledger / "entries.jsonl").write_bytes(torn)
            yield f"torn entry {steps[number][1]}"
        else:
            for name in names[: number - len(steps) + 1]:
                (site.ledger / name).write_bytes(after[name])
            yield f"written up to {names[number - len(steps)]}"


def test_every_interrupted_write_is_repaired_by_the_next_append(site: Site) -> None:
    states = 0
    for state in unfinished(site):
        states += 1
        assert site.verify("local:demo").ok, state
        appended = append(site, 3)[0]
        assert (appended.entry.index, appended.size) == (3, 4), state
        assert site.verify("local:demo").ok, state
        assert len(lines(site.ledger / "checkpoints.jsonl")) == 4, state
    assert states == 7


@pytest.mark.parametrize("name", ["tail.json", "checkpoint", "index"])
def test_what_can_be_made_anew_is_made_anew(site: Site, name: str) -> None:
    append(site, 0, 1, 2)
    path = site.ledger / name
    if path.is_dir():
        for shard in path.iterdir():
            shard.unlink()
        path.rmdir()
    else:
        path.unlink()
    assert append(site, 1)[0].added is False
    assert append(site, 3)[0].size == 4
    assert site.verify("local:demo").ok


def test_a_lying_tail_is_not_believed(site: Site) -> None:
    append(site, 0)
    old = (site.ledger / "tail.json").read_bytes()
    append(site, 1, 2)
    for lie in (old, b"{}", b"[", old.replace(b'"size":1', b'"size":2')):
        (site.ledger / "tail.json").write_bytes(lie)
        assert append(site, 2)[0].added is False
        assert site.verify("local:demo").ok


@pytest.mark.parametrize("keep_tail", [True, False])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_ledger_that_was_cut_short_takes_nothing_more(site: Site, left: int, keep_tail: bool) -> None:
    append(site, 0, 1, 2)
    kept = lines(site.ledger / "entries.jsonl")[:left]
    (site.ledger / "entries.jsonl").write_bytes(b"".join(line + b"\n" for line in kept))
    if not left:
        (site.ledger / "entries.jsonl").unlink()
    if not keep_tail:
        (site.ledger / "tail.json").unlink()
    with pytest.raises(Corrupt, match="cut short"):
        append(site, 3)


def test_a_changed_ledger_takes_nothing_more_once_it_is_read(site: Site) -> None:
    append(site, 0, 1, 2)
    (site.ledger / "tail.json").unlink()
    whole = (site.ledger / "entries.jsonl").read_bytes()
    (site.ledger / "entries.jsonl").write_bytes(whole.replace(b'"batch":"b1"', b'"batch":"b9"'))
    with pytest.raises(Corrupt, match="entry 1"):
        append(site, 3)
    (site.ledger / "entries.jsonl").write_bytes(whole)
    (site.ledger / "key.pub").unlink()
    with pytest.raises(Corrupt, match=r"key\.pub is gone"):
        append(site, 3)


def flips(raw: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(len(raw)):
        for bit in (0x01, 0x20):
            yield at, raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]


@pytest.mark.parametrize("name", ["entries.jsonl", "checkpoints.jsonl", "checkpoint", "key.pub"])
def test_any_flipped_bit_is_found(site: Site, name: str) -> None:
    append(site, 0, 1)
    path = site.ledger / name
    raw = path.read_bytes()
    for at, changed in flips(raw):
        path.write_bytes(changed)
        assert site.failures("local:demo"), f"{name}: a flip at {at} went unseen"
    path.write_bytes(raw)
    assert site.verify("local:demo").ok


def changed_lines(whole: list[bytes], change: str) -> list[bytes]:
    if change == "gap":
        return [whole[0], *whole[2:]]
    if change == "reorder":
        return [whole[1], whole[0], *whole[2:]]
    if change == "repeat":
        return [*whole, whole[-1]]
    return whole[:-1]


@pytest.mark.parametrize("change", ["gap", "reorder", "repeat", "truncated"])
@pytest.mark.parametrize("name", ["entries.jsonl", "checkpoints.jsonl"])
def test_gaps_reorder_repeats_and_truncation_are_found(site: Site, name: str, change: str) -> None:
    append(site, 0, 1, 2, 3)
    path = site.ledger / name
    path.write_bytes(b"".join(line + b"\n" for line in changed_lines(lines(path), change)))
    interrupted = (name, change) == ("entries.jsonl", "repeat")  # one unsigned line: as after a crash
    assert bool(site.failures("local:demo")) is not interrupted


def rolled_back(site: Site, size: int) -> None:
    """Everything a forger without the key can do: the state as it was at `size`."""
    for name in ("entries.jsonl", "checkpoints.jsonl"):
        kept = lines(site.ledger / name)[:size]
        (site.ledger / name).write_bytes(b"".join(line + b"\n" for line in kept))
    note = json.loads(lines(site.ledger / "checkpoints.jsonl")[-1])
    (site.ledger / "checkpoint").write_text(note)
    (site.ledger / "tail.json").unlink()


def test_whoever_kept_a_checkpoint_sees_a_rollback(site: Site) -> None:
    append(site, 0, 1, 2)
    kept = site.write("kept.txt", (site.ledger / "checkpoint").read_text())
    append(site, 3)
    assert site.verify(str(kept)).ok
    rolled_back(site, 2)
    assert site.verify("local:demo").ok
    assert "cut short" in site.failures(str(kept))[0].detail


def test_whoever_kept_a_checkpoint_sees_a_rewritten_history(site: Site) -> None:
    append(site, 0, 1, 2)
    kept = site.write("kept.txt", (site.ledger / "checkpoint").read_text())
    rolled_back(site, 1)
    append(site, 7, 8, 9)
    assert site.verify("local:demo").ok
    assert "rewritten" in site.failures(str(kept))[0].detail
    kept.write_text(kept.read_text().replace("vmsh.local/demo\n3", "vmsh.local/demo\n2"))
    assert "does not hold" in site.failures(str(kept))[0].detail


def test_many_entries_are_removed_loudly(site: Site) -> None:
    append(site, 0, 1, 2, 3)
    notes = lines(site.ledger / "checkpoints.jsonl")
    (site.ledger / "checkpoints.jsonl").write_bytes(notes[0] + b"\n")
    (site.ledger / "checkpoint").write_text(json.loads(notes[0]))
    assert "signed ones were removed" in site.failures("local:demo")[0].detail


def test_an_append_reads_no_more_of_a_long_ledger(site: Site) -> None:
    append(site, *range(40))
    whole = (site.ledger / "entries.jsonl").read_bytes()
    (site.ledger / "entries.jsonl").write_bytes(b"x" + whole[1:])  # seen by anything that reads from the start
    assert append(site, 40)[0].size == 41
    assert site.failures("local:demo")


def test_an_endless_line_is_refused(site: Site) -> None:
    append(site, 0)
    with (site.ledger / "entries.jsonl").open("ab") as file:
        file.write(b"x" * 70_000)
    with pytest.raises(Corrupt, match="a line of more than"):
        append(site, 1)
