"""Outcomes of runs that no worker posted."""

from collections.abc import Mapping

Document = Mapping[str, object]

LOST: Document = {
    "status": "unknown",
    "code": "lost",
    "message": "its worker was lost and nobody saw how this run ended",
}
"""Outcome that stands for a claim whose lease ran out."""
WITHDRAWN: Document = {"status": "failed", "code": "resources", "message": "withdrawn before a worker took it"}
"""Outcome that stands for a task that nobody claimed: `resources` counts nothing (decision 15)."""
