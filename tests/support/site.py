"""A directory in which files are sealed and anchored, driven through the anchors' verbs."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon import UNMEASURED
from vmsh_scheduler.anchors.__main__ import main
from vmsh_scheduler.anchors.report import Report, Row
from vmsh_scheduler.anchors.verify import verify
from vmsh_scheduler.domain.batch import hash_text, leaves_root

Document = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """Exit code and last line of stdout of a verb."""

    code: int
    result: Document


@dataclass(frozen=True)
class Site:
    """`root` with `out/` below it; keys in `state/keys`."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def batches(self) -> Path:
        return self.out / "batches"

    @property
    def ledger(self) -> Path:
        return self.out / "ledgers" / "demo"

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name: str) -> Document:
        document: Document = json.loads((self.root / name).read_text())
        return document

    def ask(self, verb: str, document: Document, environ: Mapping[str, str] | None = None) -> Answer:
        """In this process, through the program's own main."""
        out = io.StringIO()
        stdin = io.BytesIO(json.dumps({"root": str(self.root), **document}).encode())
        code = main([verb], environ or {}, stdin, out)
        return Answer(code, json.loads(out.getvalue().splitlines()[-1]))

    def seal(self, *files: str, **more: object) -> Answer:
        wanted = {"namespace": "demo:files", "files": list(files), "directory": str(self.batches), **more}
        return self.ask("seal", wanted)

    def request(self, batch: Document, key: str = "", **more: object) -> Document:
        """stdin of an anchor command, as the executor writes it."""
        return {
            "root": str(self.root),
            "namespace": "demo:files",
            "cadence": "fast",
            "target": "local:demo",
            "idempotency_key": key,
            "batch": {name: batch[name] for name in ("id", "root", "file") if name in batch},
            **more,
        }

    def anchor(self, batch: Document, key: str = "", **more: object) -> Answer:
        return self.ask("local", self.request(batch, key, **more))

    def start(self, verb: str, document: Document) -> "subprocess.Popen[bytes]":
        """As a process, which may be killed; stdin is written and closed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "vmsh_scheduler.anchors", verb],
            env={**os.environ, **UNMEASURED},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(document).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def verify(self, what: str = "all") -> Report:
        return verify(self.root, what)

    def failures(self, what: str = "all") -> list[Row]:
        return [row for row in self.verify(what).rows if not row.ok]

    def put_batch(self, identity: str, *, leaves: int = 1, **more: object) -> Document:
        """A v0 batch file as VaultMesh's sealer writes it (not atomic, 2-space indent)."""
        hashes = [hash_text(f"{identity} {number}".encode().ljust(32, b".")) for number in range(leaves)]
        document = {"id": identity, "root": leaves_root("v0", hashes), "leaves": hashes, "createdAt": 1_700_000_000}
        document.update(more)
        path = self.batches / f"{identity}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2))
        return {**document, "file": str(path)}
