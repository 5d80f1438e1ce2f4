"""The settings of one process: flags > environment > scheduler.yaml > defaults, each with its origin."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmsh_scheduler.domain.trigger import DAY, SECOND
from vmsh_scheduler.environment import VARIABLES, read_env_file, value_of
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.check import validate
from vmsh_scheduler.sources.config_files import Watched, look
from vmsh_scheduler.sources.expand import expand
from vmsh_scheduler.sources.marks import config_error
from vmsh_scheduler.sources.words import say
from vmsh_scheduler.sources.yaml_file import parse

__all__ = ["Settings", "SettingsFile", "load_settings", "read_env_file"]

Scheme = Literal["eip155", "btc", "rfc3161", "local"]
Argv = Annotated[tuple[Annotated[str, Field(max_length=8_192, pattern="^[^\0]*$")], ...], Field(min_length=1)]
Name = Annotated[str, Field(max_length=200, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]

LOCAL_COMMAND = ("{python}", "-P", "-m", "vmsh_scheduler.anchors", "local")
"""`{python}` is replaced by the interpreter that runs the daemon."""

_SEED_NAMESPACES = Path("vmsh/config/namespaces.yaml")
_SEED_STATE = Path("out/state/scheduler.json")


def _four_per_core() -> int:
    return min(1024, 4 * len(os.sched_getaffinity(0)))


class SettingsFile(BaseModel):
    """scheduler.yaml: the daemon itself. Every key may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    tick_ms: int = Field(10 * SECOND, ge=100, le=DAY, description="Longest nap, ms; runs start on time whatever it is.")
    metrics_host: str = Field("127.0.0.1", min_length=1, max_length=253, description="Address for health and metrics.")
    metrics_port: int = Field(9090, ge=0, le=65_535, description="Port for health and metrics; 0 = any free one.")
    base_backoff: int = Field(5, ge=1, le=3_600, description="Seconds that backoff begins with.")
    max_backoff: int = Field(7, ge=1, le=20, description="Failures in a row after which waits grow no more.")
    log_level: Literal["trace", "debug", "info", "warn", "warning", "error", "fatal", "silent"] = Field(
        "info", description="Least important lines that are logged."
    )
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto = console on a terminal.")
    concurrency: int = Field(
        default_factory=_four_per_core, ge=1, le=1_024, description="Most runs at the same time; default 4 per core."
    )
    drain_ms: int = Field(330 * SECOND, ge=0, le=DAY, description="How long a stop waits for runs, ms.")
    on_state_loss: Literal["wait", "run"] = Field(
        "wait", description="After lost state: wait one period of each cadence, or run at once."
    )
    anchor_write_enabled: bool = Field(True, description="false = anchor nothing (kill switch).")
    retention_rows: int = Field(1_000, ge=1, le=10_000_000, description="Journal rows kept per job.")
    retention_days: int = Field(30, ge=1, le=36_500, description="Days that anchor history is kept.")
    retention_bytes: int = Field(1 << 30, ge=1 << 20, le=1 << 50, description="Most bytes of journal.")
    commands: dict[Scheme, Argv] = Field(
        default_factory=lambda: {"local": LOCAL_COMMAND},
        description="Default command of each target scheme, as a list (no shell).",
    )
    pass_env: tuple[Name, ...] = Field((), max_length=1_000, description="Names of variables that commands may see.")


class Settings(SettingsFile):
    """All of it, with absolute paths."""

    root: Path
    namespaces_path: Path
    agents_path: Path
    scheduler_path: Path
    state_path: Path
    """Names scheduler.json; its directory holds everything else that is kept (decision 16)."""
    origins: Mapping[str, str] = Field(description="Where each value came from.")
    as_written: Mapping[str, Any] = Field(default_factory=dict)
    """Values of the file before `${NAME}` was filled in: what may be shown."""
    cwd: Path

    @property
    def keys_dir(self) -> Path:
        return self.state_path.parent / "keys"

    @property
    def config_paths(self) -> tuple[Watched, ...]:
        """For ConfigWatch. A path that somebody named must exist; scheduler.yaml is read at start only."""
        named = {"namespaces": self.namespaces_path, "agents": self.agents_path}
        return tuple(
            Watched(role, path, self._may_be_absent(role), _shown(path, self.cwd)) for role, path in named.items()
        )

    def _may_be_absent(self, role: str) -> bool:
        return role != "namespaces" and self.origins[f"{role}_path"] == "default"

    def rows(self) -> list[dict[str, Any]]:
        """Every setting with name, value (JSON) and origin; values from the environment through `${}` unfilled."""
        values = self.model_dump(mode="json", exclude={"origins", "as_written", "cwd"})
        return [
            {"name": name, "value": self.as_written.get(name, value), "origin": self.origins[name]}
            for name, value in sorted(values.items())
        ]


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Settings:
    """`flags` by field name (paths also without `_path`). Raises ConfigError with every problem at once."""
    layers = _Layers(cwd)
    layers.take_environment(environ)
    layers.take_flags(flags)
    paths = _paths(layers, cwd)
    layers.take_file(paths["scheduler_path"], environ, optional="scheduler_path" not in layers.values)
    checked = layers.checked()
    origins = {name: layers.origins.get(name, "default") for name in Settings.model_fields}
    return Settings(**dict(checked), **paths, origins=origins, as_written=layers.as_written, cwd=cwd)


def _paths(layers: "_Layers", cwd: Path) -> dict[str, Path]:
    """Relative ones count from the working directory; a root brings the seed's layout (decision 22)."""
    given = {name: cwd / str(value) for name, value in layers.values.items() if name in _PATHS}
    rooted = "root" in given
    root = given.get("root", cwd)
    namespaces = given.get("namespaces_path", root / _SEED_NAMESPACES if rooted else cwd / "config/namespaces.yaml")
    found = {
        "root": root,
        "namespaces_path": namespaces,
        "agents_path": given.get("agents_path", namespaces.parent / "agents.yaml"),
        "scheduler_path": given.get("scheduler_path", namespaces.parent / "scheduler.yaml"),
        "state_path": given.get("state_path", root / _SEED_STATE if rooted else cwd / "state/scheduler.json"),
    }
    return {name: Path(os.path.normpath(path)) for name, path in found.items()}


_PATHS = frozenset({"root", "namespaces_path", "agents_path", "scheduler_path", "state_path"})
_READERS: Mapping[str, Callable[[str], object]]


@dataclass(slots=True)
class _Layers:
    """Values and where they came from, strongest first: what is set stays."""

    cwd: Path
    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    as_written: dict[str, Any] = field(default_factory=dict)
