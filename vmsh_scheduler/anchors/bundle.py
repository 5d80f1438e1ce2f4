"""`bundle`: one tar that a third party checks with nothing but Python: batch, receipts, proofs, tokens, certificates.

The same evidence gives the same bytes: members in order, without times or owners."""

import base64
import binascii
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from vmsh_scheduler.anchors import bundle_verify, disk, receipts
from vmsh_scheduler.anchors.batch_check import fault_of
from vmsh_scheduler.anchors.evidence import Evidence, Loaded
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.proof import index_of, newest_first, proof
from vmsh_scheduler.domain.batch import BadBatch, Document, canonical, hash_bytes, hash_text, is_id, render, with_digest
from vmsh_scheduler.errors import NotFound, Usage

FORMAT = "vmsh-bundle.v1"
_README = """\
Evidence for batch {batch}, root {root}.

    python3 -I verify.py            everything in here, without a network
    python3 -I verify.py FILE       and whether these bytes were sealed, and what that rests on
    python3 -I verify.py --key KEY  and that a ledger signed by the key you have from elsewhere has the batch

Python 3.8 or later, nothing else; -I: nothing that lies beside the script is imported.
What asks for openssl or a node is printed as the command to run.
Whoever made this bundle could have made another one. What ties it to the world are the ledger's key, a checkpoint or
root that you kept, the certificates of a time-stamping authority that you trust, or a chain: compare with those.
SHA-256 of verify.py: {script} (`vmsh-scheduler bundle --script-sha256` prints that of an installation).
"""


_STAMPS = "attestations/rfc3161-"


class Bundle:
    """Members by path, and what could not be put in."""

    def __init__(self, evidence: Evidence, identity: str) -> None:
        """The batch, its receipt, and all that its anchors stand on. NotFound, Corrupt."""
        self.evidence = evidence
        self.members: dict[str, bytes] = {}
        self.missing: list[str] = []
        loaded = self._batch(identity)
        self.batch = loaded.batch
        path = receipts.path_of(evidence.out, identity)
        if not path.exists():
            raise NotFound(f"batch {identity} has no receipt: it is not anchored yet, or by a rail that writes none")
        receipt = receipts.read(path)
        if receipt["batchRoot"] != loaded.batch.root:
            raise Corrupt(f"the receipt of batch {identity} is for another root")
        self.members[f"receipts/{identity}.json"] = disk.read(path, disk.SMALL_LIMIT)
        for anchor in receipt["anchors"]:
            self._anchor(anchor, receipt)
        for event in self._events():
            self.members[f"receipts/events/{event.name}"] = disk.read(event, disk.SMALL_LIMIT)

    def _batch(self, identity: str) -> Loaded:
        path = self.evidence.batch_path(identity)
        if not path.exists():
            raise NotFound(f"there is no batch {identity}")
        loaded = self.evidence.load(path)
        if isinstance(loaded, BadBatch):
            raise Corrupt(f"batch {identity}: {loaded.reason}")
        if fault := fault_of(loaded):
            raise Corrupt(f"batch {identity}: {fault}")
        self.members[f"batches/{identity}.json"] = loaded.raw
        return loaded

    def _anchor(self, anchor: Document, receipt: Document) -> None:
        via = anchor.get("via", {})
        root = via.get("root", receipt["batchRoot"])
        if is_id(via.get("batch")) and f"batches/{via['batch']}.json" not in self.members:
            self._above(via["batch"])
        scheme, _, name = anchor["chain"].partition(":")
        if scheme == "local":
            self._ledger(anchor, name)
        elif scheme == "rfc3161":
            self._token(anchor, name, root)
        elif "proof" in anchor:
            self._file(anchor, f"attestations/{scheme}-{name}.{Path(anchor['proof']).suffix[1:] or scheme}")

    def _above(self, identity: str) -> None:
        """The super-batch: the way up to its root is in the receipt, so that it may be missing."""
        if self.evidence.batch_path(identity).exists():
            self._batch(identity)
        elif (said := f"super-batch {identity}: out/batches/{identity}.json is gone") not in self.missing:
            self.missing.append(said)

    def _ledger(self, anchor: Document, name: str) -> None:
        view, place = self.evidence.view(anchor["chain"], anchor["block"]), anchor["block"]
        if view is None or not 0 <= place < len(view.entries) or not view.note:
            raise Corrupt(f"{anchor['chain']} has no sound entry {place}", hint="see `vmsh-scheduler verify`")
        tree = view.tree()
        document = {
            "format": "vmsh-ledger-proof.v1",
            "key": str(view.verifier),
            "entry": view.entries[place].line.decode(),
            "index": place,
            "size": tree.size,
            "path": [hash_text(node) for node in tree.inclusion(place)],
            "checkpoint": view.note,
        }
        self.members[f"ledgers/{name}-{place}.json"] = render(document).encode()

    def _token(self, anchor: Document, name: str, root: str) -> None:
        try:
            token = base64.b64decode(anchor.get("sig", ""), validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise Corrupt(f"{anchor['chain']}: its token is not base64") from None
        if not token:
            raise Corrupt(f"{anchor['chain']}: the receipt holds no token")
        self.members[f"{_STAMPS}{name}.tsr"] = token
        self.members[f"{_STAMPS}{name}.root"] = hash_bytes(root)

    def _file(self, anchor: Document, member: str) -> None:
        path = self.evidence.root / str(anchor["proof"])
        raw = (
            disk.read_if_there(path, disk.SMALL_LIMIT)
            if path.resolve().is_relative_to(self.evidence.out.resolve())
            else None
        )
        if raw is None:
            self.missing.append(f"{anchor['chain']}: {anchor['proof']} is gone")
        else:
            self.members[member] = raw

    def _events(self) -> Iterator[Path]:
        """v0 event receipts of this batch."""
        for path in sorted((self.evidence.out / "receipts").glob("*.json")):
            try:
                same = is_id(path.stem) and receipts.read_event(path)["batchRoot"] == self.batch.root
            except (OSError, Invalid):
                continue
            if same:
                yield path

    def prove(self, path: Path) -> None:
        """A `vmsh-proof.v1` of a file, where a sound ledger or a time stamp has this batch; else the batch speaks for
        it alone: an older one may have sealed other contents."""
        try:
            document = proof(self.evidence.root, path, evidence=self.evidence, only=self.batch.id)
        except NotFound as error:
            self.missing.append(str(error))
            return
        self.members["proofs/file.json"] = render(document).encode()

    def certificates(self, files: dict[str, Path]) -> None:
        """Trust bundles by the name of the authority, for those that stamped."""
        for name, path in files.items():
            if f"{_STAMPS}{name}.tsr" in self.members:
                raw = disk.read_if_there(path, disk.SMALL_LIMIT)
                if raw is None:
                    self.missing.append(f"rfc3161:{name}: {path} is gone")
                else:
                    self.members[f"certificates/{name}.pem"] = raw

    @property
    def authorities(self) -> list[str]:
        """Whose tokens are in it."""
        found = [path for path in self.members if path.startswith(_STAMPS) and path.endswith(".tsr")]
        return sorted(path[len(_STAMPS) : -len(".tsr")] for path in found)

    def write(self, path: Path) -> None:
        """Whole or not at all. Usage where there is something else than a regular file: it would be lost."""
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise Usage(f"{path} is there, and no regular file", hint="name a file for the tar")
        disk.replace(path, self.tar())

    def tar(self) -> bytes:
        told = {"batch": self.batch.id, "root": self.batch.root}
        self.members["verify.py"] = script()
        self.members["README.txt"] = _README.format(**told, script=script_sha256()).encode()
        files = [
            {"path": path, "sha256": _hash(data), "size": len(data)} for path, data in sorted(self.members.items())
        ]
        manifest = with_digest({"format": FORMAT, **told, "files": files})
        members = {**self.members, "bundle.json": (canonical(manifest) + "\n").encode()}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, data in sorted(members.items()):
                entry = tarfile.TarInfo(f"{self.batch.id}/{path}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


def collect(root: Path, what: str) -> Bundle:
    """For a batch id, or for the newest anchored batch that sealed a file. Usage, NotFound, Corrupt."""
    evidence = Evidence(root)
    path = evidence.find(Path(what))
    is_batch = is_id(what) and evidence.batch_path(what).exists()
    if not is_batch and not path.is_file():
        raise Usage(f"{what!r} is no batch and no file below {root}")
    made = Bundle(evidence, what if is_batch else _sealed_in(evidence, path))
    if not is_batch and path.resolve().parent != (evidence.out / "batches").resolve():
        made.prove(path)
    return made


def _sealed_in(evidence: Evidence, path: Path) -> str:
    if path.resolve().parent == (evidence.out / "batches").resolve():
        return path.stem
    real = Path(os.path.realpath(path))
    for batch in newest_first(evidence):
        loaded = evidence.load(evidence.batch_path(batch.id))
        sealed = isinstance(loaded, Loaded) and index_of(evidence, loaded, real) is not None
        if sealed and receipts.path_of(evidence.out, batch.id).exists():
            return batch.id
    raise NotFound(f"{path} is in no anchored batch")


def script() -> bytes:
    """The verifier that every bundle carries."""
    return Path(bundle_verify.__file__).read_bytes()


def script_sha256() -> str:
    return sha256(script()).hexdigest()


def _hash(data: bytes) -> str:
    return hash_text(sha256(data).digest())
