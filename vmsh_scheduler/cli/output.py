"""Results as JSON. Tables are render.py's, which loads rich."""

import json
import sys
from dataclasses import asdict, is_dataclass


def as_json(data: object) -> None:
    """One document on stdout."""
    sys.stdout.write(json_text(data))


def json_text(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: object) -> object:
    """Our result values are dataclasses; paths and the like read as text."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
