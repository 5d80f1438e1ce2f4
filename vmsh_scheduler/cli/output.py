"""Results as JSON. Tables are render.py's, which loads rich."""

import json
import re
import sys
from dataclasses import asdict, is_dataclass

_UNSEEN = re.compile("[\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")


def as_json(data: object) -> None:
    """One document on stdout."""
    sys.stdout.write(json_text(data))


def json_text(data: object) -> str:
    """Readable, and nothing in it moves a terminal."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=_plain) + "\n"
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: object) -> object:
    """Our result values are dataclasses; paths and the like read as text."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
