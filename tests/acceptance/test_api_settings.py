"""The settings of the API as the installed command reads them."""

import pytest

from tests.support.daemon import Place

HOURLY = 'namespaces: {ns: {cadence: {fast: {target: "local:t", every: 1h}}}}\n'


@pytest.mark.parametrize("command", ["run", "tick", "config show", "validate-config"])
def test_an_open_address_without_authentication_refuses_to_start(place: Place, command: str) -> None:
    place.configure(HOURLY)
    done = place.cli(*command.split(), env={"HOST": "0.0.0.0", "SCHEDULER_CALLBACK_SECRET": "hunter2"})
    assert done.code == 78
    assert "HOST: an address that others reach, without authentication" in done.err
    assert "SCHEDULER_CALLBACK_SECRET: needs 16 bytes or more" in done.err
    assert "hunter2" not in done.err


def test_config_show_lists_them_and_no_secret(place: Place) -> None:
    place.configure(HOURLY, scheduler="agents:\n  max: 0\n")
    env = {"SCHEDULER_AUTH_TOKENS": "hunter2,hunter3", "PORT": "8791", "HOST": "tcp://10.0.0.1:80"}
    done = place.cli("config", "show", "--json", env=env).ok()
    rows = {row["name"]: (row["value"], row["origin"]) for row in done.json}
    assert rows["api.port"] == (8791, "env PORT")
    assert rows["api.host"] == ("127.0.0.1", "default")
    assert rows["agents.max"] == (1, "config/scheduler.yaml:2:3")
    assert rows["auth.tokens"] == ("(set, not shown)", "env SCHEDULER_AUTH_TOKENS")
    assert rows["auth.jwt_hs256_secret"] == ("", "default")
    table = place.cli("config", "show", env=env).ok().out
    assert "auth.tokens" in table
    assert "hunter" not in table + done.out
