"""The settings of one process as plain data, and where its files are. settings_file.py reads and checks them."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.environment import VARIABLES, value_of
from vmsh_scheduler.sources.config_files import Watched

SECRETS = frozenset({"auth.tokens", "auth.service_tokens", "auth.jwt_hs256_secret", "callbacks.secret", "redis.url"})
"""Never shown."""
PATHS = frozenset({"root", "namespaces_path", "agents_path", "anchors_path", "scheduler_path", "state_path"})
_LAYOUT = ("config/namespaces.yaml", "state/scheduler.json")
_SEED_LAYOUT = ("vmsh/config/namespaces.yaml", "out/state/scheduler.json")
_UNTOLD = frozenset({"origins", "as_written", "cwd", "sections"})
_API_SECTIONS = ("api", "agents", "callbacks", "market", "auth", "quota")

Judge = Callable[[Mapping[str, Any], Mapping[str, str]], Iterable[str]]
"""Sections and origins, both by "section.key", to the problems of values that are only wrong together."""


def no_judge(sections: Mapping[str, Any], origins: Mapping[str, str]) -> Iterable[str]:
    """For whoever never listens."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Valid, paths absolute. Limits and defaults: settings_file.SettingsFile."""

    tick_ms: Millis
    metrics_host: str
    metrics_port: int
    base_backoff: int
    max_backoff: int
    log_level: str
    log_format: str
    concurrency: int
    drain_ms: Millis
    on_state_loss: str
    anchor_write_enabled: bool
    retention_rows: int
    retention_days: int
    retention_bytes: int
    commands: Mapping[str, tuple[str, ...]]
    pass_env: tuple[str, ...]
    root: Path
    namespaces_path: Path
    agents_path: Path
    anchors_path: Path
    scheduler_path: Path
    state_path: Path
    """Names scheduler.json; its directory holds everything else that is kept (decision 16)."""
    sections: Mapping[str, Any] = field(repr=False)
    """Values of settings_sections by "section.key"; some are secret."""
    origins: Mapping[str, str]
    """Where each value came from."""
    as_written: Mapping[str, Any]
    """Values of the file before `${NAME}` was filled in: what may be shown."""
    cwd: Path

    @property
    def api_is_on(self) -> bool:
        """As soon as anything of it is configured, if only an empty `api:` (decision 27)."""
        return any(
            origin != "default" and (section in _API_SECTIONS or _is_of_forge(section, origin))
            for section, origin in ((name.partition(".")[0], origin) for name, origin in self.origins.items())
        )

    @property
    def is_shared(self) -> bool:
        """State is in the Redis of several instances, and not on this disk."""
        return bool(self.sections.get("redis.url"))

    @property
    def keys_dir(self) -> Path:
        return self.state_path.parent / "keys"

    @property
    def journal_path(self) -> Path | None:
        """scheduler.db; None: the journal is in Redis."""
        return None if self.is_shared else self.state_path.with_name(f"{self.state_path.stem}.db")

    @property
    def config_paths(self) -> tuple[Watched, ...]:
        """For ConfigWatch. A path that somebody named must exist; scheduler.yaml is read at start only."""
        named = {"namespaces": self.namespaces_path, "agents": self.agents_path, "anchors": self.anchors_path}
        return tuple(
            Watched(role, path, self._may_be_absent(role), display(path, self.cwd)) for role, path in named.items()
        )

    def _may_be_absent(self, role: str) -> bool:
        """A scheduler of agents alone needs no namespaces (forge-os section 17)."""
        return (role != "namespaces" or self.api_is_on) and self.origins[f"{role}_path"] == "default"

    def rows(self) -> list[dict[str, Any]]:
        """Every setting with name, value (JSON) and origin; values from the environment through `${}` unfilled."""
        names = sorted(each.name for each in fields(self) if each.name not in _UNTOLD)
        flat = {name: getattr(self, name) for name in names} | dict(self.sections)
        return [
            {"name": name, "value": self._shown(name, flat[name]), "origin": self.origins[name]}
            for name in sorted(flat)
        ]

    def _shown(self, name: str, value: object) -> object:
        if name in SECRETS:
            return "(set, not shown)" if value else _json(value)
        return self.as_written.get(name, _json(value))


def _is_of_forge(section: str, origin: str) -> bool:
    """Redis alone is no API, but who names it as the Forge.OS scheduler does means that."""
    return section == "redis" and origin.startswith("env SCHEDULER_")


def _json(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def locate(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> dict[str, Path]:
    """Where every file is, by field of Settings; `flags` may leave `_path` away. Reads nothing."""
    given: dict[str, object] = {}
    for variable in VARIABLES:
        text = value_of(variable, environ) if variable.setting in PATHS else None
        if text is not None:
            given.setdefault(variable.setting, text)
    given.update((full_name(flag), value) for flag, value in flags.items() if full_name(flag) in PATHS)
    return _laid_out({name: cwd / str(value) for name, value in given.items()}, cwd)


def full_name(flag: str) -> str:
    return f"{flag}_path" if f"{flag}_path" in PATHS else flag


def _laid_out(known: Mapping[str, Path], cwd: Path) -> dict[str, Path]:
    """Relative ones count from the working directory; a root brings the seed's layout (decision 22)."""
    root = known.get("root", cwd)
    namespaces, state = _SEED_LAYOUT if "root" in known else _LAYOUT
    config = known.get("namespaces_path", root / namespaces)
    defaults = {
        "root": root,
        "namespaces_path": config,
        "agents_path": config.parent / "agents.yaml",
        "anchors_path": config.parent / "anchors.yaml",
        "scheduler_path": config.parent / "scheduler.yaml",
        "state_path": root / state,
    }
    return {name: Path(os.path.normpath(path)) for name, path in {**defaults, **known}.items()}


def display(path: Path, cwd: Path) -> str:
    """As it stands in messages: short below the working directory."""
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
