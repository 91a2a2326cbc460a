"""The schema of a reply's numbers: type, range and length of every value, checked before anything uses it.

A reply holds finite numbers and short texts by name. Known names have a range of their own; `round` and `examples` are required.
"""

import math
from collections.abc import Mapping
from typing import Any

from fedloom.core.number_range import Range
from fedloom.core.plain_text import shown

MOST = 100
"""Largest number of values in a reply."""
_NAME = 100

KNOWN: Mapping[str, Range] = {
    "loss": Range(),
    "steps": Range(0, 1e12, whole=True),
    "truncated": Range(0, 1e12, whole=True),
}
"""The numbers that the round loop reads beside `round` and `examples`."""


def number_fault(numbers: Mapping[str, Any], round: int, max_examples: int, max_text: int) -> str | None:
    """The first fault among a reply's numbers, as a reason of refusal, or None."""
    if len(numbers) > MOST:
        return f"numbers: sends {len(numbers)}, at most {MOST} are right"
    answered = numbers.get("round")
    if Range(whole=True).fault(answered) or answered != round:
        return f"stale: answers round {shown(answered)}, this is round {round}"
    examples: Any = numbers.get("examples")
    if Range(1, math.inf, whole=True).fault(examples):
        return f"weight: claims {shown(examples)} examples, a whole number of at least 1 is right"
    if examples > max_examples:
        return f"weight: claims {shown(examples)} examples, at most {max_examples} are believed"
    for name, value in numbers.items():
        if not isinstance(name, str) or len(name) > _NAME or not name.isprintable():
            return f"numbers: sends the name {shown(name)}, at most {_NAME} printable characters are right"
        if isinstance(value, float) and not math.isfinite(value):
            return f"not finite: {name} is {value}"
        if isinstance(value, str) and name not in KNOWN:
            if len(value) > max_text or not value.isprintable():
                return f"text: {name} is {shown(value)}, at most {max_text} printable characters are right"
        elif fault := KNOWN.get(name, Range()).fault(value):
            return f"number: {name} is {shown(value)}, {fault}"
    return None
