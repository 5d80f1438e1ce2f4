"""What is remembered of an anchor or a deployment: a row, its `.receipt`, and the root after it.

On where `ops/` is (ADR 16). The order of writes: an intent, the batch's receipt, then the row and its `.receipt` in one
transaction. After a crash the intent tells the next run, of whatever batch, what is still to be remembered."""

from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import deploy_receipts, disk
from vmsh_scheduler.anchors.deploy_receipts import ANCHOR, DEPLOYMENT, DeployReceipt, Evidence
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.memories import Memories, Memory
from vmsh_scheduler.anchors.sealing import fingerprint
from vmsh_scheduler.domain.batch import Batch, Document, canonical, digest_holds, load, with_digest
from vmsh_scheduler.errors import CannotCreate, NotFound, SchedulerError, Usage

SETTLED = (None, "final")
"""`status` of attestations that are remembered: what may still change is not, because a row never does."""


class Remembrancer:
    """Of one root; whoever writes holds the lock of `out/receipts`, or is alone with its id."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ops = root / "ops"
        self.memories = Memories(self.ops / "data" / "remembrancer.db")
        self._intents = self.ops / "data" / "pending"

    @property
    def published(self) -> Path:
        """The newest root, as a line."""
        return self.ops / "data" / "remembrancer.root"

    def intend(self, batch: Batch, attestation: Document, *, namespace: str, cadence: str) -> None:
        """Durable: should this process die, `settle` goes on with it. What may still change, and what is remembered
        already, asks for nothing. An anchor is never held up by its memory: what fails is a warning of `settle`."""
        if attestation.get("status") not in SETTLED:
            return
        memory = self._anchor(batch, attestation, namespace=namespace or batch.namespace, cadence=cadence)
        if self._find(memory.id) is None:
            disk.make_directory(self._intents)
            name = sha256(memory.id.encode()).hexdigest()[:32]
            disk.replace(self._intents / f"{name}.json", canonical(with_digest(asdict(memory))).encode())

    def _find(self, identity: str) -> Memory | None:
        """None also where the database cannot be read: the intent waits until it can, and `settle` says why."""
        try:
            return self.memories.find(identity)
        except SchedulerError:
            return None

    def settle(self, out: Path) -> list[str]:
        """Every intent whose anchor is in its batch's receipt becomes a row, the others are forgotten; warnings."""
        warnings = []
        for path in sorted(self._intents.glob("*.json")) if self._intents.is_dir() else ():
            if path.name.startswith("."):
                continue
            try:
                memory = _intent(path)
                if _is_recorded(out, memory):
                    self.add(memory)
                path.unlink()
            except SchedulerError as error:
                warnings.append(f"not remembered: {error}")
        return warnings

    def add(self, memory: Memory) -> bool:
        """False: it was there. The root after it is published then."""
        added = self.memories.add(memory, self._write_receipt)
        if added is not None:
            disk.replace(self.published, f"{added.merkle_root}\n".encode())
        return added is not None

    def deployed(self, component: str, version: str, evidence: Evidence, note: str) -> bool:
        """`record deploy`; False: recorded before, with the same content. CannotCreate: with another."""
        names = deploy_receipts.checked_name("component", component), deploy_receipts.checked_name("version", version)
        data = canonical({"evidence": asdict(evidence), "note": note, "status": "active"})
        memory = Memory(f"deploy:{component}:{version}", DEPLOYMENT, *names, hash=evidence.sha256, data=data)
        disk.make_directory(self.ops / "receipts" / "deploy")
        with disk.locked(self.ops / "receipts" / "deploy"):
            self._refuse_another(memory)
            return self.add(memory)

    def _refuse_another(self, memory: Memory) -> None:
        wanted = receipt_of(memory)
        path = self.path_of(wanted)
        known = self.memories.find(memory.id)
        there = deploy_receipts.read(path) if path.exists() else None
        if (there and not wanted.same_but_for_time(there)) or (known and known.data != memory.data):
            raise CannotCreate(
                f"{path.name} is there with another content: {there.evidence.sha256 if there else 'see the database'}",
                hint="a deployment is recorded once; give the new one a version of its own",
            )

    def path_of(self, receipt: DeployReceipt) -> Path:
        return deploy_receipts.path_of(self.ops, "deploy", receipt.name)

    def _write_receipt(self, memory: Memory) -> None:
        receipt = receipt_of(memory)
        path = self.path_of(receipt)
        disk.make_directory(path.parent)
        disk.replace(path, receipt.text().encode())

    def _anchor(self, batch: Batch, attestation: Document, *, namespace: str, cadence: str) -> Memory:
        """A level that has changed its target since gets a row of its own for the new one."""
        identity, chain = f"anchor:{namespace}:{cadence}:{batch.id}", attestation["chain"]
        component = deploy_receipts.anchor_component(namespace, cadence)
        known = self._find(identity)
        if known is not None and _data(known.data).get("chain") != chain:
            identity, component = f"{identity}:{chain}", deploy_receipts.anchor_component(namespace, cadence, chain)
        data = canonical({**attestation, "evidence": asdict(self._batch_file(batch))})
        return Memory(identity, ANCHOR, component, batch.id, batch.root, data)

    def _batch_file(self, batch: Batch) -> Evidence:
        """Its bytes as they are now; nothing where a batch came without file."""
        directory = self.root / "out" / "batches"
        found = fingerprint(directory / f"{batch.id}.json", Path(directory).resolve())
        return Evidence("", "") if isinstance(found, str) else Evidence(f"out/batches/{batch.id}.json", found[0][7:])


def deploy_evidence(root: Path, file: Path | None, digest: str) -> Evidence:
    """Of what `record deploy` is given: a file, a digest, or both, which must fit each other."""
    told = digest.removeprefix("sha256:").lower()
    if told and (len(told) != 64 or set(told) - set("0123456789abcdef")):
        raise Usage(f"--sha256 {digest!r} is not 64 hex digits")
    if file is None:
        return Evidence("", told)
    path = file.resolve()
    if not path.is_file():
        raise NotFound(f"no such file: {file}", hint="what is no file needs only --sha256")
    found = fingerprint(path, path.parent)
    if isinstance(found, str):
        raise Invalid(f"{file} cannot be read: {found}")
    if told and told != found[0][7:]:
        raise Invalid(f"{file} has sha256 {found[0][7:]}, not {told}")
    base = root.resolve()
    return Evidence(path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path), found[0][7:])


def receipt_of(memory: Memory) -> DeployReceipt:
    """Invalid for a row that is not one of ours."""
    data = _data(memory.data)
    evidence = data.get("evidence")
    if not isinstance(evidence, dict) or set(evidence) != {"artifact", "sha256"}:
        raise Invalid(f"memory {memory.id!r} has no receipt")
    body = _anchor_body(memory, data) if memory.type == ANCHOR else str(data.get("note", ""))
    return DeployReceipt(
        memory.type, memory.component, memory.version, memory.timestamp, Evidence(**evidence), body.strip("\n")
    )


def _anchor_body(memory: Memory, data: Mapping[str, Any]) -> str:
    return f"{memory.id}\nroot {memory.hash}\n{data.get('chain')} {data.get('tx')} block {data.get('block')}"


def attestation_of(memory: Memory) -> Document:
    """Of an anchor's row: without what was added to it."""
    return {key: value for key, value in _data(memory.data).items() if key != "evidence"}


def _data(text: str) -> Document:
    found = load(text.encode()) if isinstance(text, str) else ""
    return {} if isinstance(found, str) else found


def _intent(path: Path) -> Memory:
    document = load(disk.read(path, disk.SMALL_LIMIT))
    if isinstance(document, str) or not digest_holds(document):
        raise Corrupt(f"{path} was changed", hint="remove it: the anchor that it spoke of is in a receipt, or will be")
    return Memory(**{key: value for key, value in document.items() if key != "digest"})


def _is_recorded(out: Path, memory: Memory) -> bool:
    raw = disk.read_if_there(out / "receipts" / "batches" / f"{memory.version}.json", disk.SMALL_LIMIT)
    document = load(raw) if raw else {}
    anchors = document.get("anchors", []) if isinstance(document, dict) else []
    return attestation_of(memory) in anchors


def root_line(raw: bytes) -> str:
    """Of a published root; "" when it is none."""
    text = raw.decode(errors="replace").strip().removeprefix("0x").removeprefix("sha256:")
    return text if len(text) == 64 and not set(text) - set("0123456789abcdef") else ""
