"""scheduler.yaml, and how flags > environment > scheduler.yaml > defaults become Settings, each with its origin."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from vmsh_scheduler.domain.trigger import DAY, SECOND, Millis
from vmsh_scheduler.environment import REDIS_PARTS, VARIABLES, redis_url, value_of
from vmsh_scheduler.errors import ConfigError, Usage
from vmsh_scheduler.settings import PATHS, SECRETS, Judge, Settings, display, full_name, locate, no_judge
from vmsh_scheduler.settings_sections import (
    FLOORS,
    SECTIONS,
    AgentsSection,
    ApiSection,
    AuthSection,
    CallbacksSection,
    MarketSection,
    QuotaSection,
    RedisSection,
)
from vmsh_scheduler.sources.check import validate
from vmsh_scheduler.sources.config_files import Watched, look
from vmsh_scheduler.sources.expand import expand
from vmsh_scheduler.sources.marks import config_error
from vmsh_scheduler.sources.model import Model
from vmsh_scheduler.sources.words import closest, say
from vmsh_scheduler.sources.yaml_file import parse

Argv = Annotated[tuple[Annotated[str, Field(max_length=8_192, pattern="^[^\0]*$")], ...], Field(min_length=1)]
Name = Annotated[str, Field(max_length=200, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]

SCHEMES = ("eip155", "btc", "rfc3161", "ots", "local")
LOCAL_COMMAND = ("{python}", "-P", "-m", "vmsh_scheduler.anchors", "local")
"""`{python}` is replaced by the interpreter that runs the daemon."""

_WHOLE = re.compile("-?(?:0|[1-9][0-9]{0,17})")
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _four_per_core() -> int:
    return min(1024, 4 * len(os.sched_getaffinity(0)))


def _scheme(name: str) -> str:
    if name not in SCHEMES:
        raise ValueError(f"is no target scheme{closest(name, SCHEMES)}")
    return name


class SettingsFile(Model):
    """scheduler.yaml: the daemon itself. Every key may be left out."""

    tick_ms: Millis = Field(
        default=10 * SECOND, ge=100, le=DAY, description="Longest nap, ms; runs start on time whatever it is."
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, max_length=253, description="Address for health and metrics."
    )
    metrics_port: int = Field(
        default=9090, ge=0, le=65_535, description="Port for health and metrics; 0 = any free one."
    )
    base_backoff: int = Field(default=5, ge=1, le=3_600, description="Seconds that backoff begins with.")
    max_backoff: int = Field(default=7, ge=1, le=20, description="Failures in a row after which waits grow no more.")
    log_level: Literal["trace", "debug", "info", "warn", "warning", "error", "fatal", "silent"] = Field(
        default="info", description="Least important lines that are logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(default="auto", description="auto = console on a terminal.")
    concurrency: int = Field(
        default_factory=_four_per_core, ge=1, le=1_024, description="Most runs at the same time; default 4 per core."
    )
    drain_ms: Millis = Field(default=330 * SECOND, ge=0, le=DAY, description="How long a stop waits for runs, ms.")
    on_state_loss: Literal["wait", "run"] = Field(
        default="wait", description="After lost state: wait one period of each cadence, or run at once."
    )
    anchor_write_enabled: bool = Field(default=True, description="false = anchor nothing (kill switch).")
    retention_rows: int = Field(default=1_000, ge=1, le=10_000_000, description="Journal rows kept per job.")
    retention_days: int = Field(default=30, ge=1, le=36_500, description="Days that anchor history is kept.")
    retention_bytes: int = Field(default=1 << 30, ge=1 << 20, le=1 << 50, description="Most bytes of journal.")
    commands: Mapping[Annotated[str, AfterValidator(_scheme)], Argv] = Field(
        default_factory=lambda: {"local": LOCAL_COMMAND},
        description="Default command of each target scheme, as a list (no shell).",
        json_schema_extra={"propertyNames": {"enum": list(SCHEMES)}},
    )
    pass_env: tuple[Name, ...] = Field(
        default=(), max_length=1_000, description="Names of variables that commands may see."
    )
    api: ApiSection = Field(default_factory=ApiSection, description="The API; configured, it is on.")
    agents: AgentsSection = Field(default_factory=AgentsSection, description="Agents' cycles.")
    callbacks: CallbacksSection = Field(default_factory=CallbacksSection, description="Outgoing calls.")
    market: MarketSection = Field(default_factory=MarketSection, description="Where the market snapshot comes from.")
    auth: AuthSection = Field(default_factory=AuthSection, description="Who may use the API.")
    quota: QuotaSection = Field(default_factory=QuotaSection, description="How often.")
    redis: RedisSection = Field(default_factory=RedisSection, description="What several instances share.")


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path, judge: Judge = no_judge
) -> Settings:
    """`flags` by name of the field (paths also without `_path`). Raises ConfigError with every problem at once.

    `judge` is api_settings.judge wherever an API may follow: what it knows lies above this module."""
    layers = _Layers(cwd, judge)
    layers.take_flags(flags)
    layers.take_environment(environ)
    paths = locate(flags, environ, cwd)
    layers.take_file(paths["scheduler_path"], environ)
    values = layers.checked()
    names = (*paths, *values.keys() - {"sections"}, *SECTIONS, *values["sections"])
    origins = {name: layers.origins.get(name, "default") for name in names}
    others = {"origins": origins, "as_written": layers.as_written, "cwd": cwd}
    return Settings(**{**values, **paths, **others})


@dataclass(slots=True)
class _Layers:
    """Values and where they came from, taken strongest first: what is set stays."""

    cwd: Path
    judge: Judge
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    as_written: dict[str, Any] = field(default_factory=dict)

    def take_flags(self, flags: Mapping[str, object]) -> None:
        for flag, value in flags.items():
            name = full_name(flag)
            if name in SECTIONS or (name not in PATHS and name not in SettingsFile.model_fields):
                raise Usage(f"no setting is called {flag!r}")
            self._take(name, _typed(name, value) if isinstance(value, str) else value, f"--{flag.replace('_', '-')}")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable in VARIABLES:
            text = value_of(variable, environ)
            if variable.setting and text is not None and variable.name not in REDIS_PARTS:
                self._take(variable.setting, _typed(variable.setting, text), f"env {variable.name}")
        if (found := redis_url(environ)) is not None:
            self._take("redis.url", found[1], f"env {found[0]}")

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
        for place in _places(model):
            name, mark = ".".join(place), document.marks.key(place)
            if name in self.values:
                continue
            self._take(name, _at(model, place), f"{document.name}:{mark.line}:{mark.column}")
            if name not in SECTIONS.keys() | SECRETS and _in(written.data, place) != _in(document.data, place):
                self.as_written[name] = _in(written.data, place)

    def checked(self) -> dict[str, Any]:
        """The values by their fields' rules, defaults filled in; raises ConfigError with all problems."""
        self._forget_a_lonely_host()
        self._forget_a_redis_of_others()
        try:
            checked = dict(SettingsFile.model_validate(self._nested()))
        except ValidationError as error:
            checked = {}
            for found in error.errors(include_url=False):
                origin = self._origin(found["loc"])
                self.problems.append(f"{origin.removeprefix('env ')}: {say(found).partition(', not text')[0]}")
        if checked:
            checked["sections"] = dict(_flat(checked))
            self.problems += self._judged(checked["sections"])
        if self.problems:
            raise config_error(self.problems)
        checked["commands"] = {"local": LOCAL_COMMAND, **checked["commands"]}
        return {name: value for name, value in checked.items() if name not in SECTIONS}

    def _forget_a_lonely_host(self) -> None:
        """HOST is the machine's name in many environments: by itself it asks for no API (ADR 12)."""
        of_api = [name for name in self._of_sections() if not self._is_generic(name)]
        if of_api == ["api.host"] and self.origins["api.host"] == "env HOST":
            del self.values["api.host"], self.origins["api.host"]

    def _forget_a_redis_of_others(self) -> None:
        """REDIS_URL and its like are set for many programs: they mean us only if something else does (decision 27)."""
        if all(self._is_generic(name) for name in self._of_sections()):
            self.values.pop("redis.url", None)
            self.origins.pop("redis.url", None)

    def _of_sections(self) -> list[str]:
        return [name for name in self.origins if name.partition(".")[0] in SECTIONS]

    def _is_generic(self, name: str) -> bool:
        return name == "redis.url" and self.origins[name].startswith("env REDIS_")

    def _nested(self) -> dict[str, Any]:
        """As in the file."""
        given: dict[str, Any] = {}
        for name, value in self.values.items():
            section, _, key = name.partition(".")
            if key:
                given.setdefault(section, {})[key] = value
            elif name not in PATHS and name not in SECTIONS:
                given[name] = value
        return given

    def _judged(self, sections: Mapping[str, Any]) -> Iterator[str]:
        """Not asked while nothing is set, as it has to be loaded; nor while values are missing that were refused."""
        if self.values.keys() & sections.keys() and not self.problems:
            origins = {name: self.origins.get(name, "default") for name in sections}
            yield from self.judge(sections, origins)

    def _origin(self, place: Sequence[str | int]) -> str:
        return self.origins.get(".".join(map(str, place[:2]))) or self.origins[str(place[0])]

    def _take(self, name: str, value: object, origin: str) -> None:
        if name not in self.values:
            self.values[name], self.origins[name] = value, origin


def _typed(name: str, text: str) -> object:
    """What a text means for this field; a text that means nothing to it stays one and is refused by the model."""
    kind = None if name in PATHS else _annotation(name)
    if kind is int:
        return int(text) if _WHOLE.fullmatch(text) else text
    if kind is bool:
        return _SWITCH.get(text.lower(), text)
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text if name in PATHS or "." in name or name == "metrics_host" else text.lower()


def _annotation(name: str) -> Any:
    section, _, key = name.partition(".")
    model: type[BaseModel] = SECTIONS[section] if key else SettingsFile
    return model.model_fields[key or name].annotation


def _places(model: SettingsFile) -> Iterator[tuple[str, ...]]:
    """Of everything that the file sets; a section is there even when nothing stands in it."""
    for name in model.model_fields_set:
        yield (name,)
        if name in SECTIONS:
            yield from ((name, key) for key in getattr(model, name).model_fields_set)


def _flat(checked: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """ "section.key" and value."""
    for section in SECTIONS:
        for key, value in checked[section]:
            yield f"{section}.{key}", _normal(f"{section}.{key}", value)


def _normal(name: str, value: Any) -> Any:
    """Numbers raised to their floor; the base of URLs without slashes at its end (forge-os section 1)."""
    if name == "market.base":
        return value.rstrip("/")
    return max(FLOORS[name], value) if name in FLOORS else value


def _at(model: BaseModel, place: Sequence[str]) -> Any:
    return reduce(getattr, place, model)


def _in(data: Any, place: Sequence[str]) -> Any:
    return reduce(getitem, place, data)
