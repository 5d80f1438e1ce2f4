"""A document that arrived by API: stored as it is, compiled to a Job, never run itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from vmsh_scheduler.domain.trigger import Millis


@dataclass(frozen=True, slots=True)
class Spec:
    """`version` rises with every change, so that two who edit the same one notice each other."""

    kind: str
    """agent (more kinds come with their sources)."""
    id: str
    document: Mapping[str, object]
    """JSON values only."""
    version: int
    created_at: Millis
    updated_at: Millis
    by: str = ""
    """Who changed it last."""
