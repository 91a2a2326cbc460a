"""Consoles that show no control character of a text: files and clients cannot move the cursor, recolour or reorder a line."""

import re
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but for tab and newline, delete and C1; changes of the writing direction; halves of characters."""


def visible(text: str) -> str:
    """The text with U+FFFD for every control character."""
    return _HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def console(**options: Any) -> Console:
    """A console whose output is `visible`; `options` are those of rich's."""
    made = Console(highlight=False, **options)
    made.push_render_hook(_Visible())
    return made


class _Visible(RenderHook):
    """Makes the texts of everything that is printed visible; what rich itself sends to the terminal stays."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


class _Shown:
    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.renderable, options):
            yield Segment(text if control else visible(text), style, control)
