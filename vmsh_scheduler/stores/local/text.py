"""States and changes as JSON text that nothing inside them can break."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vmsh_scheduler.domain.codec import decision_to_json, execution_to_json, note_to_json, state_to_json
from vmsh_scheduler.domain.state import JobState

if TYPE_CHECKING:
    from vmsh_scheduler.ports import Change  # brings asyncio, which `status` does not need

_DEPTH = 32
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""ASCII only: lone surrogates become escapes."""
_encode_sorted = json.JSONEncoder(allow_nan=False, separators=(",", ":"), sort_keys=True).encode


def to_text(value: object) -> str:
    """Compact; what JSON cannot say (NaN, objects, depth over 32) is replaced, never raised."""
    try:
        return _encode(value)
    except (ValueError, TypeError, RecursionError):
        return _encode(_plain(value, _DEPTH))


def canonical(value: object) -> str:
    """The one text of a value: sorted keys. `value` comes from json.loads."""
    try:
        return _encode_sorted(value)
    except ValueError:
        return _encode_sorted(_plain(value, _DEPTH))


def state_text(state: JobState) -> str:
    data = state_to_json(state)
    if "mean_ms" in data and not math.isfinite(data["mean_ms"]):
        del data["mean_ms"]
    return to_text(data)


def change_text(change: "Change", state: str | None) -> str:
    """One line of the log; `state` is the text of the state after the change."""
    parts = [f'{{"job":{to_text(change.job_id)},"state":{state or "null"}']
    if change.decisions:
        parts.append(f',"decisions":{to_text([decision_to_json(d) for d in change.decisions])}')
    if change.execution is not None:
        parts.append(f',"execution":{to_text(execution_to_json(change.execution))}')
    if change.notes:
        parts.append(f',"notes":{to_text([note_to_json(n) for n in change.notes])}')
    parts.append("}")
    return "".join(parts)


def _plain(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    return str(value)
