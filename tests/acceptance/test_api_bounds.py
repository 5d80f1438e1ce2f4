"""The API as an operator meets it: what is said at start, pinned keys that change, Hosts of a proxy, floods, ticks."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.support.contract import World, world
from tests.support.daemon import Place, until
from tests.support.forge import WALLET, Stub, forge, stub
from tests.support.tokens import rs256, rsa_jwk
from vmsh_scheduler.api.client import call
from vmsh_scheduler.errors import ConfigError

REGISTER = "/v1/agents/register"
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("hosts"), SCHEDULER_ALLOWED_HOSTS="scheduler.example.com, b") as made:
        yield made


class TestStart:
    """forge-os section 15."""

    ENV: Mapping[str, str] = MappingProxyType(
        {"PORT": "0", "SCHEDULER_INSTANCE_ID": "one", "SCHEDULER_AUTH_TOKENS": "a-token-to-be-kept-secret"}
    )

    def test_two_lines_on_stdout_and_the_log_on_stderr(self, place: Place, tmp_path: Path) -> None:
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            process = subprocess.Popen(
                [*place.command, "run"], cwd=tmp_path, env=place.env(self.ENV), stdout=out, stderr=err
            )
            try:
                until(lambda: '"api started"' in (tmp_path / "err").read_text(), "the API")
            finally:
                process.terminate()
                assert process.wait(20) == 0
        url, facts = (tmp_path / "out").read_text().splitlines()
        log = [json.loads(line) for line in (tmp_path / "err").read_text().splitlines()]
        (started,) = [line for line in log if line["msg"] == "api started"]
        assert url == f"http://127.0.0.1:{started['port']}"
        assert facts == (
            "kas_api=https://api.kaspa.org tick_ms=1000 concurrency=4 auth=on redis=off queue_mode=local instance=one"
        )

    def test_who_does_not_read_them_loses_them_and_nothing_else(self, place: Place, tmp_path: Path) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        while True:
            try:
                os.write(write, b"x" * 4096)
            except BlockingIOError:
                break
        os.set_blocking(write, True)
        with (tmp_path / "err").open("wb") as err:
            process = subprocess.Popen(
                [*place.command, "run"], cwd=tmp_path, env=place.env(self.ENV), stdout=write, stderr=err
            )
        os.close(write)
        try:
            until(lambda: '"api started"' in (tmp_path / "err").read_text(), "the API")
        finally:
            process.terminate()
            assert process.wait(20) == 0
            os.close(read)


class TestHosts:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("scheduler.example.com", 200),
            ("Scheduler.Example.COM:443", 200),
            ("localhost", 200),
            ("other.example.com", 421),
            ("x.scheduler.example.com", 421),
            ("scheduler.example.com.evil.example", 421),
        ],
    )
    def test_a_proxy_s_name_is_answered(self, proxied: World, host: str, status: int) -> None:
        assert proxied.api.ask("GET", "/health", Host=host).status == status

    @pytest.mark.parametrize("bad", ["*", "https://a.example", "a.example:443"])
    def test_what_is_no_host_name_refuses_to_start(self, place: Place, bad: str) -> None:
        done = place.cli("run", env={"SCHEDULER_ALLOWED_HOSTS": bad})
        assert done.code == 78
        assert "SCHEDULER_ALLOWED_HOSTS: entry 1 is no host name" in done.err


def test_a_flood_of_refused_writes_is_twenty_lines_and_a_count(place: Place, upstream: Stub) -> None:
    api = forge(place, upstream, SCHEDULER_AUTH_TOKENS="a-token-to-be-kept-secret")
    for _ in range(25):
        assert api.ask("POST", REGISTER, {}).status == 401
    assert api.ask("POST", REGISTER, {}, Authorization="Bearer a-token-to-be-kept-secret").status == 400
    until(lambda: api.daemon.lines("audit", status=400), "the call that was let in")
    assert len(api.daemon.lines("audit", status=401)) == 20
    api.daemon.stop()
    (counted,) = api.daemon.lines("audit lines left out")
    assert (counted["status"], counted["count"], counted["level"]) == (401, 5, "warn")


class TestFirstTick:
    """Decision 7."""

    def configure(self, place: Place, consumer: Stub) -> None:
        place.configure(
            "namespaces: {}\n",
            agents=f"agents:\n  - {{agentId: a, walletAddress: '{WALLET}', cycleIntervalMs: 60000, "
            f"callback: {{url: '{consumer.url}/hook'}}}}\n",
        )

    def test_agents_wait_one_period_from_the_start(self, place: Place, upstream: Stub) -> None:
        with stub() as consumer:
            self.configure(place, consumer)
            began = time.time()
            api = forge(place, upstream, SCHEDULER_TICK_MS="2500")
            assert api.agent("a")["nextRunAt"] <= time.time() * 1000
            until(lambda: consumer.received, "the first cycle")
            assert time.time() - began >= 2.5
            started = time.time() - api.get("/health")["uptime"]
            first = consumer.received[0].json["ts"] / 1000
            assert 2.4 <= first - started < 2.5 + 5

    def test_a_tick_that_is_asked_for_is_the_first(self, place: Place, upstream: Stub) -> None:
        with stub() as consumer:
            self.configure(place, consumer)
            api = forge(place, upstream, SCHEDULER_TICK_MS="600000")
            assert api.register(id="b", cycleIntervalMs=MINUTE_MS, callbackUrl=f"{consumer.url}/new")["ok"]
            until(lambda: consumer.at("/new"), "the cycle of an agent that came later")
            assert consumer.at("/hook") == []
            assert api.ask("POST", "/v1/scheduler/tick").status == 200
            until(lambda: consumer.at("/hook"), "the cycle of one that was there")


class TestNumbers:
    """As JSON.stringify writes them: whole ones without `.0`."""

    def texts(self, body: bytes) -> list[str]:
        """Of every number with a fraction or an exponent."""
        found: list[str] = []

        def note(text: str) -> float:
            found.append(text)
            return float(text)

        json.loads(body, parse_float=note)
        return found

    def test_whole_prices_and_balances(self, place: Place, upstream: Stub) -> None:
        upstream.answers |= {"/info/price": {"price": 5.0}, "/info/blockdag": {"virtualDaaScore": 7.0}}
        upstream.answers["/addresses/x/balance"] = {"balance": 0}
        with stub() as consumer:
            api = forge(place, upstream)
            register = api.ask(
                "POST", REGISTER, {"id": "a", "walletAddress": WALLET, "cycleMs": 60000.0, "callbackUrl": consumer.url}
            )
            posted = until(lambda: consumer.received[:1], "the callback")[0]
            until(lambda: api.agent("a")["lastDispatch"], "the outcome")
            paths = ["/v1/agents", "/v1/telemetry-summary", f"/v1/market-snapshot?address={WALLET}"]
            replies = [register, *(api.ask("GET", path) for path in paths), api.ask("POST", "/v1/scheduler/tick")]
            replies.append(api.ask("POST", "/v1/agents/a/control", {"action": "resume"}))
            assert [reply.status for reply in replies] == [200] * 6
            assert posted.json["market"]["priceUsd"] == 5
            assert api.agent("a")["lastDispatch"]["snapshotPriceUsd"] == 5
            for body in (posted.body, *(reply.body for reply in replies)):
                assert set(self.texts(body)) <= {"2.5"}, body  # the balance of the wallet
            health = api.ask("GET", "/health")
            ours = str(health.json["uptime"])  # seconds to the millisecond, which the original does not tell
            assert [text for text in self.texts(health.body) if text != ours] == []
            metrics = api.ask("GET", "/metrics").body.decode()
            assert re.findall(r"^forgeos_\S+ \S*(?:\.0|e[+-]?\d+)$", metrics, re.MULTILINE) == []


class TestPinnedKeys:
    """A file of kids, changed while the daemon runs, over a real key set."""

    def boot(self, place: Place, upstream: Stub, issuer: Stub, **more: str) -> World:
        place.write("kids.txt", "# ours\none\n")
        api = forge(
            place,
            upstream,
            SCHEDULER_JWKS_URL=f"{issuer.url}/jwks",
            SCHEDULER_JWKS_ALLOWED_KIDS_FILE="kids.txt",
            SCHEDULER_JWKS_REQUIRE_PINNED_KID="true",
            SCHEDULER_AUTH_READS="true",
            **more,
        )
        return World(place, api, upstream, issuer)

    def status(self, it: World, kid: str, key: int) -> int:
        claims = {"sub": "jay", "exp": int(time.time()) + 600, "scope": "agent:read"}
        token = rs256(claims, kid, key=key)
        return it.api.ask("GET", "/v1/agents", Authorization=f"Bearer {token}").status

    def statuses(self, it: World) -> tuple[int, int]:
        return self.status(it, "one", 0), self.status(it, "two", 1)

    def auth(self, it: World) -> Any:
        return it.api.get("/health")["auth"]

    def reload_by(self, how: str) -> Callable[[World], object]:
        return {
            "watch": lambda it: None,
            "signal": lambda it: it.daemon.signal(signal.SIGHUP),
            "control": lambda it: self.reload(it),
        }[how]

    def reload(self, it: World) -> Any:
        return call(str(it.place.state.with_name("control.sock")), "POST", "/reload", {"by": "test"})

    @pytest.mark.parametrize("how", ["watch", "signal", "control"])
    def test_another_list_counts_without_a_restart(self, place: Place, upstream: Stub, how: str) -> None:
        with stub(**{"/jwks": {"keys": [rsa_jwk("one"), rsa_jwk("two", key=1)]}}) as issuer:
            it = self.boot(place, upstream, issuer)
            assert self.statuses(it) == (200, 401)
            place.write("kids.txt", "two\nthree  # soon\n")
            self.reload_by(how)(it)
            line = it.daemon.wait_line("pinned keys changed")
            assert line["count"] == 2
            assert self.statuses(it) == (401, 200)
            assert self.auth(it)["jwksPinnedKids"] == 2
            it.daemon.stop()

    def test_a_list_that_would_lock_everybody_out_is_refused_until_it_does_not(
        self, place: Place, upstream: Stub
    ) -> None:
        with stub(**{"/jwks": {"keys": [rsa_jwk("one")]}}) as issuer:
            it = self.boot(place, upstream, issuer)
            assert self.status(it, "one", 0) == 200
            place.write("kids.txt", "two\n")
            line = it.daemon.wait_line("config rejected")
            assert line["problems"] == [
                "kids.txt: no key that the issuer publishes now has a pinned kid: the former pins stay until one has"
            ]
            assert self.status(it, "one", 0) == 200
            assert it.daemon.health()["config"] == {"loaded": True, "valid": False}
            assert "kids.txt: no key" in it.place.cli("status").out
            with pytest.raises(ConfigError, match="no key that the issuer publishes now"):
                self.reload(it)
            place.write("kids.txt", "two\none\n")
            it.daemon.wait_line("pinned keys changed")
            assert it.daemon.health()["config"] == {"loaded": True, "valid": True}
            assert self.status(it, "one", 0) == 200
            it.daemon.stop()

    @pytest.mark.parametrize(("content", "said"), [("# none\n", "names no kid"), ("a b\n", "kids.txt:1: a kid has")])
    def test_a_list_that_makes_no_sense_changes_nothing(
        self, place: Place, upstream: Stub, content: str, said: str
    ) -> None:
        with stub(**{"/jwks": {"keys": [rsa_jwk("one")]}}) as issuer:
            it = self.boot(place, upstream, issuer)
            place.write("kids.txt", content)
            assert said in it.daemon.wait_line("config rejected")["problems"][0]
            assert self.status(it, "one", 0) == 200

    @pytest.mark.parametrize("content", [None, "", "#\n"])
    def test_it_is_needed_at_start(self, place: Place, content: str | None) -> None:
        if content is not None:
            place.write("kids.txt", content)
        done = place.cli(
            "run",
            env={
                "SCHEDULER_JWKS_URL": "https://i.example/k",
                "SCHEDULER_JWKS_ALLOWED_KIDS_FILE": "kids.txt",
                "SCHEDULER_JWKS_REQUIRE_PINNED_KID": "1",
            },
        )
        assert (done.code, "kids.txt" in done.err, "Traceback" in done.err) == (78, True, False)

    def test_one_place_names_them(self, place: Place) -> None:
        env = {"SCHEDULER_JWKS_ALLOWED_KIDS_FILE": "k", "SCHEDULER_JWKS_ALLOWED_KIDS": "a"}
        done = place.cli("run", env={"SCHEDULER_JWKS_URL": "https://i.example/k", **env})
        assert done.code == 78
        assert "are both set: keep one" in done.err


class TestOneUserAmongOthers:
    def test_a_user_has_a_share_of_the_places(self, place: Place, upstream: Stub) -> None:
        it = forge(place, upstream, SCHEDULER_MAX_AGENTS="4", SCHEDULER_MAX_AGENTS_PER_USER="2")

        def register(user: str, id: str) -> int:
            body = {"id": id, "walletAddress": WALLET}
            return it.ask("POST", REGISTER, body, X_User_Id=user).status

        assert [register("u", "a"), register("u", "b"), register("u", "c"), register("u", "a")] == [200, 200, 400, 200]
        assert [register("v", "a"), register("v", "b"), register("w", "a")] == [200, 200, 400]
        assert it.ask("POST", "/v1/agents/a/control", {"action": "remove"}, X_User_Id="u").status == 200
        assert [register("u", "c"), register("u", "d")] == [200, 400]

    def test_wallets_that_the_upstream_fails_for_stop_nobody_else(self, place: Place) -> None:
        """One shared breaker let anybody stop all."""
        with stub() as upstream, stub() as consumer:
            for n in range(5):
                upstream.lines[f"/addresses/kaspa%3Aevil{n}/balance"] = (500, {})
            it = forge(place, upstream)
            for n in range(5):
                wallet = f"kaspa:evil{n}"
                body = {"id": f"e{n}", "walletAddress": wallet, "cycleIntervalMs": 1_000, "callbackUrl": consumer.url}
                assert it.ask("POST", REGISTER, body, X_User_Id="mallory").status == 200
            it.register(id="mine", cycleIntervalMs=1_000, callbackUrl=consumer.url)
            until(lambda: len(consumer.received) >= 8, "cycles of the one that is well")
            assert it.agent("mine")["failureCount"] == 0
            failed = until(lambda: it.agent("e0")["lastDispatch"], "a failure that says why")
            assert failed["error"].startswith("market_unavailable:upstream_500")


def test_documents_that_were_emptied_are_missed(place: Place, upstream: Stub) -> None:
    """An empty file is a fresh database to SQLite; the agents' states tell that it is not."""
    it = forge(place, upstream)
    it.register(id="alpha")
    it.daemon.stop()
    (place.state.parent / "scheduler-specs.db").write_bytes(b"")
    for leftover in place.state.parent.glob("scheduler-specs.db-*"):
        leftover.unlink()
    again = forge(place, upstream)
    assert again.daemon.wait_line("trouble")["what"] == "documents_lost"
    assert "1 agents that ran are registered no more" in place.cli("status").out
    health = again.daemon.health()
    assert (health["status"], health["state"]["origin"]) == ("degraded", "lost")
    again.daemon.stop()


def test_nothing_is_registered_in_a_file_that_was_taken_away(place: Place, upstream: Stub) -> None:
    it = forge(place, upstream)
    it.register(id="alpha")
    kept = place.state.parent / "scheduler-specs.db"
    kept.rename(place.root / "aside")
    body = {"id": "beta", "walletAddress": WALLET}
    assert it.ask("POST", REGISTER, body).status == 503
    health = it.daemon.health()
    assert (health["status"], health["state"]["writable"]) == ("degraded", False)
    (place.root / "aside").rename(kept)
    assert it.ask("POST", REGISTER, body).status == 200
    assert it.daemon.health()["status"] == "healthy"
    it.daemon.stop()


def test_changes_over_the_control_socket_are_audited(place: Place, upstream: Stub) -> None:
    it = forge(place, upstream)
    place.cli("agents", "register", "alpha", "--wallet", WALLET, "--user", "u").ok()
    place.cli("agents", "remove", "alpha", "--user", "u").ok()
    lines = [line for line in it.daemon.lines("audit") if line.get("peer") == "control socket"]
    assert [(line["verb"], line["user"], line["agent"]) for line in lines] == [
        ("register", "u", "alpha"),
        ("remove", "u", "alpha"),
    ]
    assert all(line["who"] for line in lines)


def test_service_tokens_that_hold_none_refuse_to_start(place: Place) -> None:
    """They would leave the API open to everybody."""
    done = place.cli("run", env={"PORT": "0", "SCHEDULER_SERVICE_TOKENS_JSON": "[]"})
    assert (done.code, "SCHEDULER_SERVICE_TOKENS_JSON: holds no token" in done.err) == (78, True)
