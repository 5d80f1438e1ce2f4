"""scheduler.yaml, and how flags > environment > scheduler.yaml > defaults become Settings, each with its origin."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vmsh_scheduler.domain.trigger import DAY, SECOND, Millis
from vmsh_scheduler.environment import VARIABLES, value_of
from vmsh_scheduler.errors import ConfigError, Usage
from vmsh_scheduler.settings import PATHS, Settings, display, full_name, locate
from vmsh_scheduler.sources.check import validate
from vmsh_scheduler.sources.config_files import Watched, look
from vmsh_scheduler.sources.expand import expand
from vmsh_scheduler.sources.marks import config_error
from vmsh_scheduler.sources.words import closest, say
from vmsh_scheduler.sources.yaml_file import parse

Argv = Annotated[tuple[Annotated[str, Field(max_length=8_192, pattern="^[^\0]*$")], ...], Field(min_length=1)]
Name = Annotated[str, Field(max_length=200, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]

SCHEMES = ("eip155", "btc", "rfc3161", "local")
LOCAL_COMMAND = ("{python}", "-P", "-m", "vmsh_scheduler.anchors", "local")
"""`{python}` is replaced by the interpreter that runs the daemon."""

_WHOLE = re.compile("-?(?:0|[1-9][0-9]{0,17})")
_SWITCH = {"1": True, "true": True, "0": False, "false": False}


def _four_per_core() -> int:
    return min(1024, 4 * len(os.sched_getaffinity(0)))


def _scheme(name: str) -> str:
    if name not in SCHEMES:
        raise ValueError(f"is no target scheme{closest(name, SCHEMES)}")
    return name


class SettingsFile(BaseModel):
    """scheduler.yaml: the daemon itself. Every key may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    tick_ms: Millis = Field(
        10 * SECOND, ge=100, le=DAY, description="Longest nap, ms; runs start on time whatever it is."
    )
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
    drain_ms: Millis = Field(330 * SECOND, ge=0, le=DAY, description="How long a stop waits for runs, ms.")
    on_state_loss: Literal["wait", "run"] = Field(
        "wait", description="After lost state: wait one period of each cadence, or run at once."
    )
    anchor_write_enabled: bool = Field(True, description="false = anchor nothing (kill switch).")
    retention_rows: int = Field(1_000, ge=1, le=10_000_000, description="Journal rows kept per job.")
    retention_days: int = Field(30, ge=1, le=36_500, description="Days that anchor history is kept.")
    retention_bytes: int = Field(1 << 30, ge=1 << 20, le=1 << 50, description="Most bytes of journal.")
    commands: Mapping[Annotated[str, AfterValidator(_scheme)], Argv] = Field(
        default_factory=lambda: {"local": LOCAL_COMMAND},
        description="Default command of each target scheme, as a list (no shell).",
        json_schema_extra={"propertyNames": {"enum": list(SCHEMES)}},
    )
    pass_env: tuple[Name, ...] = Field((), max_length=1_000, description="Names of variables that commands may see.")


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Settings:
    """`flags` by name of the field (paths also without `_path`). Raises ConfigError with every problem at once."""
    layers = _Layers(cwd)
    layers.take_flags(flags)
    layers.take_environment(environ)
    paths = locate(flags, environ, cwd)
    layers.take_file(paths["scheduler_path"], environ)
    values = layers.checked()
    origins = {name: layers.origins.get(name, "default") for name in (*paths, *SettingsFile.model_fields)}
    others = {"origins": origins, "as_written": layers.as_written, "cwd": cwd}
    return Settings(**{**values, **paths, **others})


@dataclass(slots=True)
class _Layers:
    """Values and where they came from, taken strongest first: what is set stays."""

    cwd: Path
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    as_written: dict[str, Any] = field(default_factory=dict)

    def take_flags(self, flags: Mapping[str, object]) -> None:
        for flag, value in flags.items():
            name = full_name(flag)
            if name not in PATHS and name not in SettingsFile.model_fields:
                raise Usage(f"no setting is called {flag!r}")
            self._take(name, _typed(name, value) if isinstance(value, str) else value, f"--{flag.replace('_', '-')}")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable in VARIABLES:
            text = value_of(variable, environ)
            if variable.setting and text is not None:
                self._take(variable.setting, _typed(variable.setting, text), f"env {variable.name}")

    def take_file(self, path: Path, environ: Mapping[str, str]) -> None:
        """A file that nobody named may be absent; comments alone are an empty one."""
        found = look([Watched("scheduler", path, "scheduler_path" not in self.values, display(path, self.cwd))])
        self.problems += found.problems.values()
        if "scheduler" not in found.raw:
            return
        try:
            written = parse(found.raw["scheduler"], display(path, self.cwd), empty_ok=True)
            document = expand(written, environ)
            model = validate(document, SettingsFile)
        except ConfigError as error:
            self.problems += error.problems
            return
        for name in model.model_fields_set - self.values.keys():
            mark = document.marks.key((name,))
            self._take(name, getattr(model, name), f"{document.name}:{mark.line}:{mark.column}")
            if written.data[name] != document.data[name]:
                self.as_written[name] = written.data[name]

    def checked(self) -> dict[str, Any]:
        """The values by their fields' rules, defaults filled in; raises ConfigError with all problems."""
        given = {name: value for name, value in self.values.items() if name not in PATHS}
        try:
            checked = dict(SettingsFile.model_validate(given))
        except ValidationError as error:
            for found in error.errors(include_url=False):
                origin = self.origins[str(found["loc"][0])]
                self.problems.append(f"{origin.removeprefix('env ')}: {say(found).partition(', not text')[0]}")
        if self.problems:
            raise config_error(self.problems)
        checked["commands"] = {"local": LOCAL_COMMAND, **checked["commands"]}
        return checked

    def _take(self, name: str, value: object, origin: str) -> None:
        if name not in self.values:
            self.values[name], self.origins[name] = value, origin


def _typed(name: str, text: str) -> object:
    """What a text means for this field; a text that means nothing to it stays one and is refused by the model."""
    kind = None if name in PATHS else SettingsFile.model_fields[name].annotation
    if kind is int:
        return int(text) if _WHOLE.fullmatch(text) else text
    if kind is bool:
        return _SWITCH.get(text.lower(), text)
    if name == "pass_env":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text if name in PATHS or name == "metrics_host" else text.lower()
