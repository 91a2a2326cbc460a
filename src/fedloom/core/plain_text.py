"""Text from outside, made fit for a ledger, a page and a terminal."""

import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs"}
"""Unicode's control, format and surrogate characters: terminal escapes, changes of writing direction, halves of characters."""


def plain(text: str, most: int = 500) -> str:
    """`text` in one line, with every control character replaced by U+FFFD, cut to `most` characters."""
    line = " ".join(text[: most + 1].split())
    seen = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSEEN else c for c in line)
    return seen if len(text) <= most else seen[: most - 1] + "…"


def shown(value: object, most: int = 60) -> str:
    """A JSON value for a message: numbers and short texts as they are, others by their kind."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "a whole number of more than 64 bits"
    if isinstance(value, list | tuple | dict):
        return "a list" if not isinstance(value, dict) else "a nested object"
    if isinstance(value, str):
        return repr(plain(value, most))
    return plain(repr(value), most)
