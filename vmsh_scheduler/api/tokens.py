"""Shared and service tokens: how they are written, sent and compared."""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

LONGEST_TOKEN = 8192
"""Bytes of any token, JWTs included: more is not looked at."""
LONGEST_SUBJECT = 120
SCOPES = ("agent:read", "agent:write", "scheduler:tick", "metrics:read")
"""All that the Forge surface knows by name; `admin` satisfies each."""
SERVICE_SCOPES = frozenset(SCOPES[:3])
"""Of a service token that names none (Forge.OS scheduler, auth.mjs)."""
SERVICE_SUBJECT = "service"

_BEARER = "bearer "
_Whose = TypeVar("_Whose")


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """One entry of SCHEDULER_SERVICE_TOKENS_JSON."""

    token: str = field(repr=False)
    subject: str
    scopes: frozenset[str]


class TokenTable(Generic[_Whose]):
    """Finds whose token it is; keeps digests only, and takes equally long for every token of one length."""

    def __init__(self, owners: Iterable[tuple[str, _Whose]]) -> None:
        self._owners = [(_digest(token), whose) for token, whose in owners]

    def owner(self, token: str) -> _Whose | None:
        """The first that matches; all are compared all the same (D22)."""
        sent, found = _digest(token), None
        for known, whose in reversed(self._owners):
            if hmac.compare_digest(known, sent):
                found = whose
        return found


def _digest(token: str) -> bytes:
    """Header bytes that are no UTF-8 arrive as surrogates."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def presented(headers: Mapping[str, str]) -> str:
    """The token of a request, "" for none: `Authorization: Bearer`, and with any other Authorization X-Scheduler-Token.

    Header names in lower case."""
    authorization = headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return headers.get("x-scheduler-token", "").strip()


def token_problem(token: str) -> str:
    """Why no client could ever send it ("" = it could); never shows it."""
    if not token or token != token.strip():
        return "is empty or begins or ends with a space"
    if not token.isascii() or not token.isprintable() or len(token) > LONGEST_TOKEN:
        return f"must be printable ASCII of at most {LONGEST_TOKEN} characters"
    return ""


def subject_problem(subject: str) -> str:
    """Cutting would give two subjects one identity (D20), control characters could not be sent on (D26)."""
    if subject.isprintable() and len(subject) <= LONGEST_SUBJECT:
        return ""
    return f"must be printable and at most {LONGEST_SUBJECT} characters long"


def parse_service_tokens(text: str) -> tuple[ServiceToken, ...]:
    """Both forms: a list of `{token, sub, scopes}`, or a map from token to `{sub, scopes}`. Empty text: none.

    Raises ValueError, which names the entry by its place and never shows a token."""
    if not text.strip():
        return ()
    found = [_entry(number, token, entry) for number, (token, entry) in enumerate(_pairs(unique_json(text)), 1)]
    if len({service.token for service in found}) < len(found):
        raise ValueError("one token stands in two entries; leave one of them")
    return tuple(found)


def _pairs(document: object) -> list[tuple[object, object]]:
    if isinstance(document, dict):
        return list(document.items())
    if isinstance(document, list):
        return [(entry.get("token") if isinstance(entry, dict) else None, entry) for entry in document]
    raise ValueError("must be a list of objects or an object from token to object")


def _entry(number: int, token: object, entry: object) -> ServiceToken:
    if not isinstance(entry, dict):
        raise ValueError(f"entry {number}: must be an object with sub and scopes")  # noqa: TRY004  one kind for all
    if not isinstance(token, str):
        raise ValueError(f"entry {number}: has no token, or one that is no text")  # noqa: TRY004  one kind for all
    if problem := token_problem(token):
        raise ValueError(f"entry {number}: its token {problem}")
    return ServiceToken(token, _subject(number, entry), _scopes(number, entry))


def _subject(number: int, entry: Mapping[str, object]) -> str:
    given = entry.get("sub") or entry.get("userId") or SERVICE_SUBJECT
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"entry {number}: sub must be text")  # noqa: TRY004  one kind for all
    if problem := subject_problem(str(given)):
        raise ValueError(f"entry {number}: sub {problem}")
    return str(given)


def _scopes(number: int, entry: Mapping[str, object]) -> frozenset[str]:
    """A misspelt `scopes` would silently mean the default, which may write."""
    if "scope" in entry:
        raise ValueError(f"entry {number}: write `scopes`, not `scope`")
    given = entry.get("scopes", "")
    if isinstance(given, str):
        return split_scopes(given) or SERVICE_SCOPES
    if not isinstance(given, list) or not all(isinstance(scope, str) for scope in given):
        raise ValueError(f"entry {number}: scopes must be text or a list of texts")
    return frozenset(scope.strip() for scope in given) - {""}


def split_scopes(text: str) -> frozenset[str]:
    """Commas and white space part them, in any mixture."""
    return frozenset(text.replace(",", " ").split())


def unique_json(text: str | bytes) -> object:
    """JSON in which no name stands twice and no number is NaN. Raises ValueError that quotes nothing of the text."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        problem = f"is not JSON: line {error.lineno} column {error.colno}: {error.msg}"
    except UnicodeDecodeError:
        problem = "is not JSON: not UTF-8"
    except RecursionError:
        problem = "is not JSON: nested too deep"
    raise ValueError(problem)  # outside of the handler: the JSON error holds the whole text


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
