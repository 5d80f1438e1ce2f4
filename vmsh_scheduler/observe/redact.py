"""Takes secrets out of text before anybody can read it."""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "***"
SHORTEST = 4
"""Values shorter than this are no secrets: masking them would eat ordinary words."""

_TO_SPACE = r"[^\s\"'&,;]{1,8192}"
_GAP = r"[\"']?\s{0,3}"
_WORDS = r"token|secret|password|passwd|private_?key|api_?key"

# Every repetition is bounded or cannot overlap with what follows it, so that hostile output costs linear time.
_PATTERNS = (
    (rf"(?i)(authorization{_GAP}[:=]{_GAP}(?:(?:bearer|basic)\s{{1,3}})?){_TO_SPACE}", r"\1***"),
    (r"(?i)\b(bearer\s{1,3})[\w.~+/=-]{8,8192}", r"\1***"),
    (rf"(?i)((?:token|secret|password|passwd|key){_GAP}=\s{{0,3}}[\"']?){_TO_SPACE}", r"\1***"),
    (rf"(?i)((?:{_WORDS})[\"']\s{{0,3}}:\s{{0,3}}[\"'])[^\"']{{1,8192}}", r"\1***"),
    (r"(://)[^/\s@\"'<>]{1,512}@", r"\1***@"),
)
_HINTS = ("authorization", "bearer", "token", "secret", "passw", "key", "://")
"""None of the patterns fits a text without one of these; most texts have none."""
_LOOKS_SECRET = tuple((re.compile(pattern), replacement) for pattern, replacement in _PATTERNS)


class Redactor:
    """Masks the exact values of known secrets, and what looks like a credential; never shows them in its repr."""

    __slots__ = ("_exact",)

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._exact = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def suspects(self, text: str) -> bool:
        """Cheap: False = `mask` leaves the text as it is, also when it is a part of a JSON text."""
        return _hinted(text) or (self._exact is not None and self._exact.search(text) is not None)

    def mask(self, text: str) -> str:
        if self._exact is not None:
            text = self._exact.sub(MASK, text)
        if not _hinted(text):
            return text
        for pattern, replacement in _LOOKS_SECRET:
            text = pattern.sub(replacement, text)
        return text


def _hinted(text: str) -> bool:
    return any(map(text.lower().__contains__, _HINTS))


def _forms(secret: str) -> set[str]:
    """A secret as it stands, line by line, and as URLs and JSON write it."""
    texts = [secret, secret.strip(), *(line.strip() for line in secret.splitlines())]
    forms = {form for text in texts for form in (text, quote(text, safe=""), json.dumps(text)[1:-1])}
    return {form for form in forms if len(form) >= SHORTEST}
