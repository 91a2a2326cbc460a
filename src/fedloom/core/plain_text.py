"""Text from outside, made fit for a ledger, a page and a terminal."""


def plain(text: str, most: int = 500) -> str:
    """`text` in one line, cut to `most` characters; what is not printable becomes U+FFFD.

    Terminal escapes, changes of the writing direction and halves of characters are not printable.
    """
    line = " ".join(text[: most + 1].split())
    seen = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
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
