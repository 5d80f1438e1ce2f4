"""Anchors: a token of a time-stamping authority on this machine, a Merkle tree, a verification of many receipts."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

from bench.lab import Lab
from bench.report import Row, Values
from tests.support.tsa import make_authorities, serving
from vmsh_scheduler.anchors import timestamp
from vmsh_scheduler.anchors.__main__ import main
from vmsh_scheduler.anchors.verify import checks
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import hash_text, leaves_root

TOKENS = 20
LEAVES = 100_000
RECEIPTS = 10_000
OPENSSL = "openssl ts -reply"
HASHES = "as many sha256"
READS = "read, parse and hash the same files"


def run(lab: Lab) -> list[Row]:
    leaves, count = (10_000, 1_000) if lab.small else (LEAVES, RECEIPTS)
    site = _site(lab, count)
    trees = {"ours": lambda: _tree(leaves), HASHES: lambda: _hashes(leaves)}
    checked = {"ours": lambda: _verified(site, count), READS: lambda: _read(site)}
    return [
        *_tokens(lab),
        *lab.compare("anchors", f"Merkle root and a proof, {leaves} leaves", trees, (HASHES,)),
        *replace(lab, rounds=1).compare("anchors", f"verify of {count} receipts", checked, (READS,)),
    ]


def _tokens(lab: Lab) -> list[Row]:
    """The authority is `openssl ts` behind a small server, so most of a round trip is its own work: the floor."""
    with serving(make_authorities(Path(tempfile.mkdtemp(dir=lab.directory)))) as tsa:
        root = Path(tempfile.mkdtemp(dir=lab.directory))
        rail = {"url": tsa.url(), "trustBundle": str(tsa.root)}

        def request(number: int) -> bytes:
            batch = _put(root, f"{os.getpid()}-{time.monotonic_ns()}-{number}")
            about = {"root": str(root), "target": "rfc3161:tsa", "rail": rail, "railName": "tsa", "batch": batch}
            return json.dumps(about).encode()

        def verb(document: bytes) -> None:
            assert main(["tsa"], {}, io.BytesIO(document), io.StringIO()) == 0

        def process(document: bytes) -> None:
            argv = [sys.executable, "-P", "-m", "vmsh_scheduler.anchors", "tsa"]
            subprocess.run(argv, input=document, capture_output=True, check=True)

        asked = timestamp.question(b"x" * 32).body
        measures: dict[str, Callable[[], Values]] = {
            "ours, the verb": lambda: _each(lambda number: verb(request(number))),
            "ours, as a process": lambda: _each(lambda number: process(request(number))),
            OPENSSL: lambda: _each(lambda _: tsa.stamp(asked)),
        }
        return lab.compare("anchors", "token round trip, recorded", measures, (OPENSSL,))


def _each(once: Callable[[int], object]) -> Values:
    times = []
    for number in range(TOKENS):
        began = time.perf_counter()
        once(number)
        times.append(1000 * (time.perf_counter() - began))
    return {"p50 ms": median(times), "max ms": max(times)}


def _tree(count: int) -> Values:
    leaves = [number.to_bytes(32, "big") for number in range(count)]
    began = time.perf_counter()
    tree = merkle.tree([merkle.leaf_hash(leaf) for leaf in leaves])
    path = tree.inclusion(count // 3)
    took = time.perf_counter() - began
    assert merkle.verify_inclusion(merkle.leaf_hash(leaves[count // 3]), count // 3, count, path, tree.root)
    return {"s": took}


def _hashes(count: int) -> Values:
    """One per leaf of 33 bytes, one per inner node of 65."""
    short, long, sha256 = b"\x00" * 33, b"\x01" * 65, hashlib.sha256
    began = time.perf_counter()
    for _ in range(count):
        sha256(short).digest()
    for _ in range(count - 1):
        sha256(long).digest()
    return {"s": time.perf_counter() - began}


def _put(root: Path, identity: str) -> dict[str, str]:
    leaves = [hash_text(f"{identity} {number}".encode().ljust(32, b".")) for number in range(4)]
    digest = leaves_root("v0", leaves)
    path = root / "out" / "batches" / f"{identity}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"id": identity, "root": digest, "leaves": leaves, "createdAt": 1_700_000_000}))
    return {"id": identity, "root": digest, "file": str(path)}


def _site(lab: Lab, count: int) -> Path:
    """So many batches in a local ledger, each with its receipt. Made without syncs, which nobody measures here."""
    root = Path(tempfile.mkdtemp(dir=lab.directory))
    print(f"anchors: making {count} receipts", file=sys.stderr, flush=True)
    with mock.patch("os.fsync"), mock.patch("os.fdatasync"):
        for number in range(count):
            about = {"root": str(root), "target": "local:bench", "batch": _put(root, str(1_700_000_000 + number))}
            assert main(["local"], {}, io.BytesIO(json.dumps(about).encode()), io.StringIO()) == 0
    return root


def _verified(root: Path, count: int) -> Values:
    began = time.perf_counter()
    rows = list(checks(root))
    took = time.perf_counter() - began
    assert all(row.ok for row in rows)
    assert sum(row.kind == "receipt" for row in rows) == count
    return {"s": took, "us/receipt": 1e6 * took / count}


def _read(root: Path) -> Values:
    paths = [*(root / "out/batches").glob("*.json"), *(root / "out/receipts/batches").glob("*.json")]
    began = time.perf_counter()
    for path in paths:
        raw = path.read_bytes()
        json.loads(raw)
        hashlib.sha256(raw).digest()
    took = time.perf_counter() - began
    return {"s": took, "us/receipt": 2e6 * took / len(paths)}
