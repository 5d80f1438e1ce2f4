"""vmsh-scheduler: cadences, agents and anchors on one engine."""

__version__ = "0.1.0"
