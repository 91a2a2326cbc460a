"""UniFLoW's parts of a model: encoder, projector and LLM."""

from typing import Literal

Part = Literal["encoder", "projector", "llm"]


def part_of(group: str) -> Part | None:
    """The part that a group belongs to; None for a group of another system."""
    head = group.split(".", 1)[0]
    return head if head in ("encoder", "projector", "llm") else None  # type: ignore[return-value]
