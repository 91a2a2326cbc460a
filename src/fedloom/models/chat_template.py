"""Chat templates seen from outside: the texts that one writes around the words of a conversation's turns."""

from collections.abc import Callable, Sequence
from typing import Any

from fedloom.data.sample import Role

MARK = "fedloom-{}-{}-mark"


def texts_around(
    render: Callable[[list[dict[str, Any]]], str], roles: Sequence[Role], *, parts: bool = False
) -> list[str]:
    """The rendered text around marks in place of the turns' words, one text more than turns.

    Empty where a turn is not shown once and in its place. `parts`: contents are lists of parts. Raises what the template raises.
    """
    marks = [MARK.format(role, number) for number, role in enumerate(roles)]
    contents: list[Any] = [[{"type": "text", "text": mark}] if parts else mark for mark in marks]
    text = render([{"role": r, "content": content} for r, content in zip(roles, contents, strict=True)])
    texts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            return []
        texts.append(before)
    return [*texts, text]


def in_words(roles: Sequence[Role]) -> str:
    """The turns of a conversation, for messages."""
    questions = roles.count("user")
    count = "a question" if questions == 1 else f"{questions} questions"
    return f"a system turn and {count}" if roles[0] == "system" else count
