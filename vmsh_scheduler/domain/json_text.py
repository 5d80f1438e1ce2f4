"""JSON as it goes to others."""

import json

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encoded(document: object) -> bytes:
    """UTF-8 without spaces, as JSON.stringify writes it; half surrogates become escapes. Raises ValueError for NaN."""
    try:
        return _encode(document).encode()
    except UnicodeEncodeError:
        return _encode_ascii(document).encode()
