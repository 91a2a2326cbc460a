"""Cells of a table as a sample's texts, split and client. Every function raises ValueError with a clause on an odd value."""

import datetime
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

Part = Literal["train", "validation", "test"]
SPLITS: Mapping[str, Part] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Splits by the names that people give them."""
_INNER = ("text", "answer", "answers", "value", "label")
"""Keys of an object that holds an answer, first to last."""


def text_of(value: Any) -> str | None:
    """The cell as text; None where it is empty.

    A number is written as it is, 3.0 as 3; a list gives its most frequent text, the first of equals; an object the text under
    "text", "answer", "answers", "value" or "label".
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return plain(value) if value.strip() else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("is infinite")
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        texts = [text for element in value if (text := text_of(element)) is not None]
        return Counter(texts).most_common(1)[0][0] if texts else None
    if isinstance(value, Mapping) and (key := next((k for k in _INNER if k in value), None)):
        return text_of(value[key])
    raise ValueError(f"should be a text, a number or a list of them, and is {_kind(value)}")


def plain(text: str) -> str:
    """The text. Raises ValueError for half of a surrogate pair, at which tokenizers would fail in mid-run."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no Unicode text") from None
    return text


def split_of(value: Any) -> Part | None:
    """The split that the cell names; None where it is empty."""
    text = text_of(value)
    if text is None:
        return None
    part = SPLITS.get(text.strip().lower())
    if part is None:
        raise ValueError(f"should be train, validation or test, and is {text[:60]!r}")
    return part


def client_of(value: Any) -> str:
    """The client's name."""
    if isinstance(value, list | tuple | Mapping):
        raise ValueError(f"should be one client's name, and is {_kind(value)}")
    name = (text_of(value) or "").strip()
    if not name:
        raise ValueError("is empty, and should name the row's client")
    if name in (".", "..") or {"/", "\\", "\0"} & set(name) or len(name.encode()) > 200:
        raise ValueError(f"names the client {name[:60]!r}, which is no folder's name")
    return name


def column_value(value: Any) -> str | int | float:
    """The cell of a column that dealing reads; "" where it is empty."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return text_of(value) or ""


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
