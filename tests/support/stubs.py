"""Anchor commands that do what a test says, and note what they were told."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import Document, Place

STUB = Path(__file__).with_name("stub_anchor.py")


def stub(name: str = "stub") -> str:
    """argv of the stub anchor command, as a YAML list."""
    return json.dumps(["{python}", str(STUB), name])


def put_batch(place: Place, identity: str = "1", digit: str = "a") -> None:
    """A batch of one leaf (v0 tree: the leaf is the root)."""
    root = f"sha256:{digit * 64}"
    batch = {"id": identity, "root": root, "leaves": [root], "createdAt": int(identity)}
    place.write(f"out/batches/{identity}.json", json.dumps(batch))


def cadences(**levels: str) -> str:
    """A namespace `ns` whose levels are inline YAML mappings; each anchors the batches of out/batches by the stub."""
    rows = "".join(
        f"      {level}: {{target: 'local:t', command: {stub()}, {rest}}}\n" for level, rest in levels.items()
    )
    return f"namespaces:\n  ns:\n    cadence:\n{rows}"


@dataclass(frozen=True, slots=True)
class Stub:
    """What the stub of this name was asked to do, and what it saw."""

    place: Place
    name: str = "stub"

    def behave(self, **how: object) -> None:
        """From its next call on; see stub_anchor.py."""
        self.place.write(f"behave/{self.name}.json", json.dumps(how))

    def calls(self, **labels: str) -> list[Document]:
        """Every call so far in the order of their slots and attempts; `stdin` is parsed."""
        found = []
        for path in (self.place.root / "calls").glob("*.json"):
            call = json.loads(path.read_text())
            call["stdin"] = json.loads(call["stdin"] or "{}")
            if call["argv"][0] == self.name and labels.items() <= call["stdin"].items():
                found.append(call)
        return sorted(found, key=lambda call: (call["stdin"].get("slot_ms", 0), call["stdin"].get("attempt", 0)))
