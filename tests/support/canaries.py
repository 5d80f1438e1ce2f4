"""A daemon with a secret in every place that may hold one, and all that it and every command then say."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.contract import World, world
from tests.support.daemon import Place, until
from tests.support.forge import WALLET

CANARIES: Mapping[str, str] = {
    "shared token": "canary-shared-0001",
    "service token": "canary-service-0002",
    "signing secret of JWTs": "canary-hs256-0003-of-more-than-thirty-two-bytes",
    "secret of callbacks": "canary-callbacks-0004",
    "wrong token": "canary-wrong-0005",
    "token in a header": "canary-header-0006",
    "token in a callback's URL": "canary-hook-0007",
    "password in a refused URL": "canary-password-0008",
    "token in a path": "canary-path-0009",
    "token in a query": "canary-query-0010",
    "body of a request": "canary-body-0011",
    "body of a callback's answer": "canary-answer-0012",
    "header of a callback's answer": "canary-location-0013",
    "URL of a configured agent": "canary-file-0014",
    "environment of another program": "canary-environ-0015",
}
_SERVICES = json.dumps([{"token": CANARIES["service token"], "sub": "user-123", "scopes": ["agent:write"]}])
ENVIRON = {
    "SCHEDULER_AUTH_TOKENS": CANARIES["shared token"],
    "SCHEDULER_SERVICE_TOKENS_JSON": _SERVICES,
    "SCHEDULER_JWT_HS256_SECRET": CANARIES["signing secret of JWTs"],
    "SCHEDULER_CALLBACK_SECRET": CANARIES["secret of callbacks"],
    "OTHER_API_KEY": CANARIES["environment of another program"],
    "LOG_LEVEL": "debug",
}
REGISTER = "/v1/agents/register"
JOB = "_agents/user-123/hook"
HOOK = "http://127.0.0.1:9/" + CANARIES["token in a callback's URL"]
ADDRESS_BOOK = "scheduler-specs.db"
"""Whom to call: the one file that has to know a callback's URL."""


@dataclass
class Told:
    """Outputs by where they came from: `cli ...`, `http ...`, `probe ...`, `state ...`, `log`, `ps`."""

    texts: dict[str, str] = field(default_factory=dict)
    statuses: set[int] = field(default_factory=set)
    address_book: str = ""
    address_book_mode: int = 0


def hits(told: Told) -> list[tuple[str, str]]:
    """Output and which secret stands in it."""
    return [(where, what) for where, text in told.texts.items() for what, canary in CANARIES.items() if canary in text]


@contextmanager
def bait(root: Path) -> Iterator[Told]:
    told = Told()
    with world(root, _configure, **ENVIRON) as it:
        _callbacks(it, told)
        _requests(it, told)
        for path in ("/health", "/metrics", "/livez", "/nope"):
            told.texts[f"probe {path}"] = it.daemon.get(path).body
        as_json = [(*words, "--json") for words in SHOW]
        _commands(it.place, told, *SHOW, *as_json, *ACT, when="beside the daemon")
        told.texts["ps"] = Path(f"/proc/{it.daemon.pid}/cmdline").read_text()
        it.daemon.stop()
        _commands(it.place, told, *as_json, ("tick",), when="after its end")
        told.texts["log"] = it.daemon.text()
        _state(it.place.state.parent, told)
        yield told


def _state(directory: Path, told: Told) -> None:
    for path in [each for each in directory.rglob("*") if each.is_file()]:
        text = path.read_bytes().decode(errors="replace")
        if path.name.startswith(ADDRESS_BOOK):
            told.address_book += text
            told.address_book_mode |= path.stat().st_mode & 0o777
        else:
            told.texts[f"state {path.name}"] = text


def _configure(place: Place) -> None:
    url = f"http://127.0.0.1:9/{CANARIES['URL of a configured agent']}"
    place.configure(
        "namespaces: {}\n",
        agents=f"agents: [{{agentId: baited, userId: ops, walletAddress: 'kaspa:qq0', callback: {{url: '{url}'}}}}]\n",
    )


def _callbacks(it: World, told: Told) -> None:
    """Three that fail, each in its way, at URLs that hold a token."""
    token = CANARIES["token in a callback's URL"]
    path = f"/hook?token={token}"
    it.consumer.answers[path] = CANARIES["body of a callback's answer"]
    it.consumer.lines[path] = 500, {"X-Secret": CANARIES["header of a callback's answer"]}
    it.consumer.lines[f"/moved?token={token}"] = 302, {"Location": CANARIES["header of a callback's answer"]}
    urls = {"hook": it.hook(path), "moved": it.hook(f"/moved?token={token}"), "dead": f"http://127.0.0.1:9/{token}"}
    for id, url in urls.items():
        body = {"id": id, "walletAddress": WALLET, "cycleIntervalMs": 1_000, "callbackUrl": url}
        assert _ask(it, told, "POST", REGISTER, body, keep=False) == 200  # the answer says what was sent, to its sender
    until(lambda: it.metric("callback_error_total") >= 6, "failures")


def _ask(it: World, told: Told, method: str, path: str, body: object = None, *, keep: bool = True, **more: str) -> int:
    headers = {"Authorization": f"Bearer {CANARIES['shared token']}", "X_User_Id": "user-123", **more}
    got = it.api.ask(method, path, body, **headers)
    told.statuses.add(got.status)
    if keep:
        told.texts[f"http {len(told.texts)} {method} {path}"] = f"{got.headers}{got.body.decode(errors='replace')}"
    return got.status


def _requests(it: World, told: Told) -> None:
    """Every route, and every way to be refused that a secret can be part of."""
    secret, query = CANARIES["body of a request"], f"?token={CANARIES['token in a query']}"
    for path in ("/health", "/metrics", "/v1/agents", "/v1/telemetry-summary", "/openapi.json", "/docs"):
        _ask(it, told, "GET", path + query)
    wrong = {"Authorization": f"Bearer {CANARIES['wrong token']}", "X_Scheduler_Token": CANARIES["token in a header"]}
    _ask(it, told, "POST", REGISTER + query, {"id": secret}, keep=True, **wrong)
    _ask(it, told, "POST", "/v1/scheduler/tick", None, Authorization=f"Bearer {CANARIES['service token']}")
    _ask(it, told, "GET", f"/{CANARIES['token in a path']}{query}", X_Request_Id=CANARIES["token in a header"] + ".")
    _ask(it, told, "GET", f"/v1/market-snapshot?address={CANARIES['token in a query']}")
    refused = f"http://u:{CANARIES['password in a refused URL']}@127.0.0.1/"
    good = {"id": "x", "walletAddress": WALLET}
    for body in (
        {**good, "callbackUrl": refused},
        {**good, "cycleIntervalMs": secret},
        {"id": "x", "walletAddress": secret},
        {"walletAddress": secret, "id": {"a": secret}},
        f'{{"id": "{secret}'.encode(),
        secret.encode() * 100_000,
    ):
        _ask(it, told, "POST", REGISTER, body)
    _ask(it, told, "POST", "/v1/agents/hook/control", {"action": secret})
    _ask(it, told, "POST", "/v1/scheduler/tick", {"token": secret})


SHOW = (
    ("status", "--agents"), ("why", JOB), ("history",), ("config", "show"), ("doctor",), ("agents", "list"),
)  # fmt: skip
"""What shows data, also to programs, and with no daemon too."""
_REFUSED = f"http://u:{CANARIES['password in a refused URL']}@127.0.0.1/"
ACT = (
    ("next",), ("validate-config",), ("schema", "agents"), ("reload",), ("seal", "nope"), ("verify",),
    ("proof", "nope"), ("trigger", JOB), ("pause", JOB), ("resume", JOB), ("reset", JOB), ("run",), ("tick",),
    ("resolve", "nope", "--as", "ok"), ("agents", "pause", "hook", "--user", "user-123", "--json"),
    ("agents", "resume", "hook", "--user", "user-123", "--json"), ("agents", "register", "x", "--wallet", "bad"),
    ("agents", "register", "x", "--wallet", WALLET, "--callback", _REFUSED),
    ("agents", "register", "told", "--wallet", WALLET, "--callback", HOOK, "--json"),
    ("agents", "remove", "told"), ("redis", "check"), ("receipt", "nope"), ("bundle", "nope"), ("verify-audit",),
    ("deploy-contract", "--target", "eip155:1"), ("record", "deploy", "--component", "c", "--version", "1", "--json"),
)  # fmt: skip
"""One of each other command; some have to be refused."""


def _commands(place: Place, told: Told, *commands: tuple[str, ...], when: str) -> None:
    for words in commands:
        done = place.cli(*words, env={"PORT": "0", **ENVIRON})
        name = " ".join(word for word in words if word not in (HOOK, _REFUSED))
        told.texts[f"cli {name} {when}"] = done.out + done.err
