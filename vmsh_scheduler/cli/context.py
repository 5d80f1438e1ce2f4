"""What every command needs: the settings, and whoever answers - the running daemon, or the files on disk."""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsh_scheduler.api.client import CONTROL_NAME, call
from vmsh_scheduler.domain.text import printable
from vmsh_scheduler.errors import NoAnswer, Unavailable
from vmsh_scheduler.settings import Settings, locate
from vmsh_scheduler.sources.catalog import SettingsRequest

if TYPE_CHECKING:  # the offline half loads most of the program: only commands that need it do
    from vmsh_scheduler.disk_view import DiskView
    from vmsh_scheduler.operations import AppOperations

Json = dict[str, Any]


def judge(sections: Mapping[str, Any], origins: Mapping[str, str]) -> Iterable[str]:
    """settings.Judge; asked only when something of the API is set."""
    from vmsh_scheduler import api_settings

    return api_settings.judge(sections, origins)


@dataclass
class Context:
    """The global options, turned into settings when a command first asks."""

    flags: dict[str, str]
    env_file: Path | None = None

    @cached_property
    def environ(self) -> dict[str, str]:
        """The real environment wins over --env-file."""
        if self.env_file is None:
            return dict(os.environ)
        from vmsh_scheduler.env_file import read_env_file

        return {**read_env_file(self.env_file), **os.environ}

    @cached_property
    def settings(self) -> Settings:
        from vmsh_scheduler.settings_file import load_settings

        return load_settings(*self.asked)

    @property
    def asked(self) -> SettingsRequest:
        """For a child that loads the settings."""
        return SettingsRequest(self.flags, self.environ, Path.cwd(), judge)

    @property
    def who(self) -> str:
        import getpass

        try:
            return printable(getpass.getuser())
        except (KeyError, OSError):
            return f"uid {os.getuid()}"

    def ask(self, path: str, offline: "Callable[[DiskView], Json]", **values: object) -> Json:
        """The daemon's answer; without a daemon, the same made from the files on disk."""
        try:
            return call(self._socket, "GET", path, values)
        except NoAnswer:
            self._refuse_shared()
            from vmsh_scheduler.disk_view import DiskView

            return offline(DiskView(self.settings, self.environ))

    def _refuse_shared(self) -> None:
        """What lies on this disk is not the truth where Redis has it. Raises Unavailable."""
        if self.settings.is_shared:
            hint = "ask where one runs, or see `vmsh-scheduler redis check`"
            raise Unavailable("the state is in Redis and no daemon runs here", hint=hint)

    def tell(self, path: str, offline: "Callable[[AppOperations], Awaitable[Json]]", **values: object) -> Json:
        """Have the daemon do it; without a daemon, take the lock and do it here."""
        try:
            return call(self._socket, "POST", path, {**values, "by": self.who})
        except NoAnswer:
            from vmsh_scheduler.domain.secrets import secret_values
            from vmsh_scheduler.observe.redact import Redactor
            from vmsh_scheduler.oneshot import change

            return change(self.settings, self.environ, Redactor(secret_values(self.environ)), offline)

    def live(self, method: str, path: str, **values: object) -> Json:
        """What only a running daemon can do. Raises Unavailable without one."""
        return call(self._socket, method, path, values)

    @property
    def _socket(self) -> str:
        """Found without a look at scheduler.yaml: a daemon answers even when its files are wrong by now."""
        return str(locate(self.flags, self.environ, Path.cwd())["state_path"].parent / CONTROL_NAME)
