"""JSON as it goes to others."""

import json


def encoded(document: object) -> bytes:
    """UTF-8 without spaces, as JSON.stringify writes it; half surrogates become escapes. Raises ValueError for NaN."""
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
