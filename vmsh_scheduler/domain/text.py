"""Text from outside made safe to show: nothing in it moves a cursor, hides or reverses what follows."""

import re

_HIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def printable(text: str) -> str:
    """Control, bidi and surrogate characters as backslash escapes; tabs and line ends stay."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """`printable`, and nothing of it passes for a line or a column of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
