"""Checks a bundle with nothing but Python (3.8 or later) and its standard library: `python3 -I verify.py [FILE...]`.

The bundle's own copy of this file is `verify.py`. Exit code 0: all that can be checked here holds; 1: something does
not; 2: wrong use. What asks for openssl or a node is printed as the command to run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # beside the file that runs
RFC6962 = "rfc6962-sha256"
PARTS = ("attestations", "batches", "certificates", "ledgers", "proofs", "receipts")
PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME
SQRT_M1 = pow(2, (PRIME - 1) // 4, PRIME)


class Fault(Exception):
    """What does not hold, as a sentence."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def need(holds: bool, otherwise: str) -> None:
    if holds is not True:
        raise Fault(otherwise)


def raw_hash(text: object) -> bytes:
    found = re.fullmatch("sha256:([0-9a-f]{64})", text) if isinstance(text, str) else None
    if found is None:
        raise Fault(f"not sha256:<64 hex digits>: {str(text)[:80]}")
    return bytes.fromhex(found[1])


def digest_fits(document: dict[str, Any]) -> bool:
    bare = {key: value for key, value in document.items() if key != "digest"}
    return bool(document.get("digest") == "sha256:" + sha256(canonical(bare).encode()).hex())


def read(name: str) -> bytes:
    path = os.path.join(HERE, *name.split("/"))  # noqa: PTH118  # pathlib alone doubles the start
    need(".." not in name and not name.startswith("/"), f"{name}: a path that leads out of the bundle")
    with open(path, "rb") as file:
        return file.read()


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read(name).decode())
    need(isinstance(document, dict), f"{name}: not a JSON object")
    return document


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def tree_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 2.1.1."""
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0] if level else sha256(b"")


def v0_root(leaves: list[bytes]) -> bytes:
    """VaultMesh's: leaves not hashed again, an odd last node doubled."""
    level = list(leaves)
    while len(level) > 1:
        level += level[-1:] * (len(level) % 2)
        level = [sha256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0] if level else sha256(b"")


def climbs(leaf: bytes, step: dict[str, Any], root: bytes) -> bool:
    """RFC 9162 2.1.3.2; `leaf`: a leaf hash."""
    index, last, node = step["index"], step["size"] - 1, leaf
    if not 0 <= index <= last:
        return False
    for sibling in map(raw_hash, step["path"]):
        if last == 0:
            return False
        if index % 2 or index == last:
            node = node_hash(sibling, node)
            while index and index % 2 == 0:
                index, last = index // 2, last // 2
        else:
            node = node_hash(node, sibling)
        index, last = index // 2, last // 2
    return last == 0 and node == root


def _add(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % PRIME, (p[1] + p[0]) * (q[1] + q[0]) % PRIME
    c, d = 2 * p[3] * q[3] * CURVE_D % PRIME, 2 * p[2] * q[2] % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def _times(scalar: int, point: tuple[int, ...]) -> tuple[int, ...]:
    result: tuple[int, ...] = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def _point(encoded: bytes) -> tuple[int, ...]:
    number = int.from_bytes(encoded, "little")
    y, odd = number % 2**255, number >> 255
    need(y < PRIME, "a point of the signature is out of range")
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, PRIME - 2, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * SQRT_M1 % PRIME
    need((x * x - square) % PRIME == 0 and not (x == 0 and odd), "a point of the signature is not on the curve")
    x = PRIME - x if x % 2 != odd else x
    return x, y, 1, x * y % PRIME


def signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519, RFC 8032 5.1.7, in extended coordinates: some milliseconds, and only for checking."""
    if len(public) != 32 or len(signature) != 64:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    if scalar >= ORDER:
        return False
    hashed = hashlib.sha512(signature[:32] + public + message).digest()
    challenge = int.from_bytes(hashed, "little") % ORDER
    left = _times(scalar, (*_BASE[:2], 1, _BASE[0] * _BASE[1] % PRIME))
    right = _add(_point(signature[:32]), _times(challenge, _point(public)))
    same_x: bool = (left[0] * right[2] - right[0] * left[2]) % PRIME == 0
    return same_x and (left[1] * right[2] - right[1] * left[2]) % PRIME == 0


_BASE = _point((4 * pow(5, PRIME - 2, PRIME) % PRIME).to_bytes(32, "little"))


def check_members() -> str:
    raw = read("bundle.json")
    told = json.loads(raw.decode())
    need(digest_fits(told) and raw == (canonical(told) + "\n").encode(), "bundle.json was changed")
    need(told["format"] == "vmsh-bundle.v1", "bundle.json is of another format")
    for member in told["files"]:
        data = read(member["path"])
        found = len(data), "sha256:" + sha256(data).hex()
        need(found == (member["size"], member["sha256"]), f"{member['path']} was changed")
    listed = {member["path"] for member in told["files"]}
    for wanted in ("verify.py", f"batches/{told['batch']}.json", f"receipts/{told['batch']}.json"):
        need(wanted in listed, f"bundle.json does not list {wanted}")
    others = {path for part in PARTS for path in names(part)} - listed
    need(not others, f"bundle.json does not list {sorted(others)[:3]}")
    return f"{len(told['files'])} members are as bundled"


def names(directory: str) -> list[str]:
    found = []
    for place, _, files in os.walk(os.path.join(HERE, directory)):  # noqa: PTH118  # as above
        inside = os.path.relpath(place, HERE).replace(os.sep, "/")
        found += [f"{inside}/{file}" for file in files]
    return sorted(found)


def subject() -> tuple[str, str]:
    """Id and root of the batch that the bundle is of."""
    told = load("bundle.json")
    return told["batch"], told["root"]


def spoken_of() -> dict[str, str]:
    """Root by id: the bundle's batch, and the super-batches that its receipt leads to. No other batch belongs here."""
    anchors = load(f"receipts/{subject()[0]}.json")["anchors"]
    above = {anchor["via"]["batch"]: anchor["via"]["root"] for anchor in anchors if "via" in anchor}
    return {**above, **dict([subject()])}


def check_batch(name: str) -> str:
    batch = load(name)
    root, leaves = raw_hash(batch["root"]), batch.get("leaves")
    need(name == f"batches/{batch['id']}.json", f"{name} holds another batch")
    need("digest" not in batch or digest_fits(batch), f"{name}: it does not match its own digest")
    lists = {"files", "heads", "batches"} & set(batch)
    need(not lists or ("digest" in batch and leaves is not None), f"{name}: its digest or its leaves are gone")
    raw = [raw_hash(leaf) for leaf in leaves or ()]
    rooted = leaves is None or (tree_root if batch.get("tree") == RFC6962 else v0_root)(raw) == root
    need(rooted, f"{name}: leaves do not give its root")
    for part in lists:
        roots = part == "batches"
        found = [raw_hash(item["root"]) if roots else sha256(canonical(item).encode()) for item in batch[part]]
        need(found == raw, f"{name}: {part} are not its leaves")
    need(spoken_of().get(batch["id"]) == batch["root"], f"{name}: the receipt in here does not speak of it")
    return f"root recomputed from {len(raw)} leaves" if raw else "no leaves in it: the root cannot be recomputed"


def check_receipt(name: str, trusted: list[str], todo: list[tuple[str, str]], grounds: list[str]) -> str:
    """`grounds`: gets what the batch rests on, if all of the receipt holds."""
    receipt = load(name)
    if name.startswith("receipts/events/"):
        return check_event(receipt, name)
    need(digest_fits(receipt), f"{name}: it does not match its own digest")
    need((receipt["batchId"], receipt["batchRoot"]) == subject(), f"{name}: it is not of the bundle's batch")
    said = [check_anchor(anchor, receipt, trusted, todo) for anchor in receipt["anchors"]]
    need(len(said) > 0, f"{name}: it speaks of no anchor")
    in_ledger = any(anchor["chain"].startswith("local:") for anchor in receipt["anchors"])
    need(in_ledger or not trusted, f"{name}: nothing in it is signed by the key that you gave")
    grounds += said
    return "; ".join(said)


def check_event(receipt: dict[str, Any], name: str) -> str:
    reached = {raw_hash(receipt["eventHash"])}
    need(len(receipt["path"]) <= 16, f"{name}: its path is too long")
    for sibling in map(raw_hash, receipt["path"]):
        reached = {sha256(pair) for node in reached for pair in (node + sibling, sibling + node)}
    need(raw_hash(receipt["batchRoot"]) in reached, f"{name}: its path does not lead to the batch root")
    need(receipt["batchRoot"] == subject()[1], f"{name}: its root is not that of the bundle's batch")
    return "the event leads to the batch root"


def check_anchor(anchor: dict[str, Any], receipt: dict[str, Any], trusted: list[str], todo: list[Any]) -> str:
    root, about, via = receipt["batchRoot"], receipt["batchId"], anchor.get("via")
    words = "".join(str(anchor.get(part, "")) for part in ("chain", "tx", "block", "blockHash", "ts"))  # for commands
    need(re.fullmatch("[A-Za-z0-9:._+/=-]+", words) is not None, "an anchor has characters that no chain's names have")
    if via:
        up = climbs(leaf_hash(raw_hash(root)), via, raw_hash(via["root"]))
        need(up, "the batch does not lead to its super-batch")
        root, about = via["root"], via["batch"]
    scheme, _, name = anchor["chain"].partition(":")
    if scheme == "local":
        return check_ledger(anchor, root, about, trusted)
    if scheme == "rfc3161":
        return check_token(anchor, root, name, todo)
    if scheme == "ots" and "proof" in anchor:
        stamped = read(f"attestations/ots-{name}.ots")[33:65]
        need(stamped == raw_hash(root), "the OpenTimestamps proof is of another root")
    todo += commands(scheme, name, anchor, root)
    return f"{anchor['chain']} {anchor['tx']}: not checked here, see below"


def check_ledger(anchor: dict[str, Any], root: str, about: str, trusted: list[str]) -> str:
    proof = load(f"ledgers/{anchor['chain'][6:]}-{anchor['block']}.json")
    entry = check_entry(proof, proof["checkpoint"], trusted)
    need((entry["root"], entry["batch"]) == (root, about), "the ledger entry is about another batch")
    told = "sha256:" + leaf_hash(proof["entry"].encode()).hex(), entry["index"], entry["ts"]
    need(told == (anchor["tx"], anchor["block"], anchor["ts"]), "the receipt differs from the ledger")
    if entry["file"]:
        need(sha256(read(f"batches/{about}.json")) == raw_hash(entry["file"]), "the batch file is not the one anchored")
    trust = "the key that you gave" if proof["key"] in trusted else f"if you trust {proof['key']}"
    return f"{anchor['chain']} entry {entry['index']} of {proof['size']}, {entry['ts']} s, signed: {trust}"


def check_entry(ledger: dict[str, Any], note: str, trusted: list[str]) -> dict[str, Any]:
    """A ledger's entry up to its signed checkpoint (C2SP signed note); gives the entry."""
    key = ledger["key"]
    need(not trusted or key in trusted, f"signed by another key than the one trusted: {key}")
    name, _, rest = key.partition("+")
    hashed, _, encoded = rest.partition("+")
    public = base64.b64decode(encoded, validate=True)
    need(public[:1] == b"\x01" and sha256(f"{name}\n".encode() + public)[:4].hex() == hashed, "not a verifier key")
    body, _, last = note.rpartition("\n\n")
    found = re.fullmatch("— ([^ \n]+) ([A-Za-z0-9+/=]+)\n", last)
    by, blob = (found[1], base64.b64decode(found[2], validate=True)) if found else ("", b"")
    need(by == name and blob[:4].hex() == hashed, "the checkpoint is not signed by that key")
    need(signed(public[1:], f"{body}\n".encode(), blob[4:]), "the checkpoint's signature does not hold")
    origin, size, root = body.split("\n")
    need(origin == name and int(size) == ledger["size"], "the checkpoint is of another ledger or size")
    line = ledger["entry"]
    entry: dict[str, Any] = json.loads(line)
    need(digest_fits(entry) and canonical(entry) == line and entry["index"] == ledger["index"], "the entry was changed")
    need(climbs(leaf_hash(line.encode()), ledger, base64.b64decode(root)), "the entry does not lead to the checkpoint")
    return entry


def check_token(anchor: dict[str, Any], root: str, name: str, todo: list[tuple[str, str]]) -> str:
    place = f"attestations/rfc3161-{name}"
    token = read(f"{place}.tsr")
    need(base64.b64encode(token).decode() == anchor["sig"], "the token differs from the receipt's")
    need(read(f"{place}.root") == raw_hash(root), f"{place}.root is another root")
    need(b"\x04\x20" + sha256(raw_hash(root)) in token, "the token is not about this root")
    pem = [path for path in names("certificates") if path == f"certificates/{name}.pem"]
    roots = pem[0] if pem else "ROOTS.pem (of the authority: not in this bundle)"
    command = f"openssl ts -verify -data {place}.root -in {place}.tsr -attime {anchor['ts']} -CAfile {roots}"
    todo.append((f"rfc3161:{name}, signed at {anchor['ts']}", command))
    return f"rfc3161:{name}: the token is about this root, its signature is not checked here, see below"


def commands(scheme: str, name: str, anchor: dict[str, Any], root: str) -> list[tuple[str, str]]:
    what, tx, digits = f"{anchor['chain']} must hold {root[7:]}", anchor["tx"], root[7:]
    if scheme == "eip155":
        ask = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionReceipt", "params": [tx]})
        to = f", a log or the call data of {anchor.get('contract') or 'the transaction'} has the root"
        what += f"; status 0x1, block {anchor['block']}{to}"
        return [(what, f"curl -s YOUR_NODE -H 'Content-Type: application/json' -d '{ask}'")]
    if scheme == "btc":
        block = anchor.get("blockHash", "")
        return [(f"{what}: an output 6a225256{digits}", f"bitcoin-cli getrawtransaction {tx} 1 {block}".rstrip())]
    if scheme == "ots":
        return [(what, f"ots verify -d {digits} attestations/ots-{name}.ots")]
    return [(what, f"look up {tx}")]


def check_proof(name: str, trusted: list[str]) -> str:
    """vmsh-proof.v1: file -> batch -> (super-batch) -> ledger entry -> signed checkpoint; or -> the receipt."""
    proof = load(name)
    need(proof["format"] == "vmsh-proof.v1", f"{name} is of another format")
    need(digest_fits(proof), f"{name}: it does not match its own digest")
    file, batch, above = proof["file"], proof["batch"], proof.get("superBatch")
    need((batch["id"], batch["root"]) == subject(), f"{name}: it is not of the bundle's batch")
    leaf = leaf_hash(sha256(canonical(file).encode()))
    need(climbs(leaf, batch, raw_hash(batch["root"])), "the file is not in the batch")
    stamps, known = proof.get("anchors", []), load(f"receipts/{batch['id']}.json")["anchors"]
    need(all(stamp in known for stamp in stamps), "a time stamp in it is not in the receipt")
    if "ledger" not in proof:
        need(len(stamps) > 0, "it leads to no ledger entry and to no time stamp")
        return f"{file['path']} is in batch {batch['id']}, stamped: {', '.join(stamp['chain'] for stamp in stamps)}"
    if above:
        up = climbs(leaf_hash(raw_hash(batch["root"])), above, raw_hash(above["root"]))
        need(up, "the batch is not in the super-batch")
    entry = check_entry(proof["ledger"], proof["checkpoint"], trusted)
    top = above or batch
    need((entry["root"], entry["batch"]) == (top["root"], top["id"]), "the ledger entry is about another batch")
    return f"{file['path']} is in batch {batch['id']}"


def check_file(path: str, grounds: list[str]) -> str:
    """A file that you have: is it, byte for byte, one that the batch of this bundle sealed, and on what grounds?"""
    with open(path, "rb") as file:
        data = file.read()
    told, name = ("sha256:" + sha256(data).hex(), len(data)), f"batches/{subject()[0]}.json"
    check_batch(name)
    for sealed in load(name).get("files", ()):
        if (sealed["sha256"], sealed["size"]) == told:
            need(len(grounds) > 0, f"listed as {sealed['path']} in {name}, whose receipt does not hold")
            return f"sealed as {sealed['path']} in {name}, which rests on: {'; '.join(grounds)}"
    raise Fault("the batch of this bundle did not seal these bytes")


def say(text: str) -> None:
    """In one line, whatever stands in the bundle: a name in it could show a line of its own."""
    sys.stdout.write("".join(letter if letter.isprintable() else "?" for letter in text) + "\n")


def checked(what: str, check: object, *arguments: object) -> bool:
    try:
        say(f"ok   {what}: {check(*arguments)}")  # type: ignore[operator]  # a function of this file
        return True
    except Fault as fault:
        say(f"FAIL {what}: {fault}")
    except Exception as error:  # whatever a changed byte leads to
        say(f"FAIL {what}: cannot be read: {type(error).__name__}: {error}"[:300])
    return False


def main(arguments: list[str]) -> int:
    trusted, files = [], []
    while arguments:
        word = arguments.pop(0)
        if word == "--key" and arguments:
            trusted.append(arguments.pop(0))
        elif word.startswith("-"):
            sys.stderr.write("usage: python3 -I verify.py [--key VERIFIER_KEY]... [FILE...]\n")
            return 2
        else:
            files.append(word)
    todo: list[tuple[str, str]] = []
    grounds: list[str] = []
    good = [checked("bundle", check_members)]
    good += [checked(name, check_batch, name) for name in names("batches")]
    good += [checked(name, check_receipt, name, trusted, todo, grounds) for name in names("receipts")]
    good += [checked(name, check_proof, name, trusted) for name in names("proofs")]
    good += [checked(path, check_file, path, grounds) for path in files]
    for what, command in todo:
        say(f"NOT CHECKED {what}:")
        say(f"     {command}")
    verdict = "all that can be checked here holds" if all(good) else "SOMETHING DOES NOT HOLD"
    say(f"{verdict}; {len(todo)} commands left to run")
    return int(not all(good))


if not __name__.endswith("bundle_verify"):  # so that no changed byte of this line keeps it from running
    sys.exit(main(sys.argv[1:]))
