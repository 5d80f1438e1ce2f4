"""Bodies of answers."""

import json

JSON_TYPE = "application/json"
"""Exactly so, without a charset (forge-os section 2)."""


def encoded(document: object) -> bytes:
    """UTF-8 without spaces, as JSON.stringify writes it; half surrogates become escapes."""
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(document, separators=(",", ":")).encode()
