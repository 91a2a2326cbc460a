"""Tables for a terminal of a known width: no word and no figure is broken, and what does not fit stands in a table below."""

import re
from collections.abc import Sequence
from textwrap import wrap
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

FIGURE = re.compile(r"[~<≈+\-−]?\d\S*( \S{1,5})?( \*)?$|—$|\[")
"""A cell that is a figure: a number with at most a unit, a dash, an interval."""
SHORTEST = 24
"""Characters of a word that is never broken; a longer one, such as a path, is folded where there is no room."""
NBSP = "\u00a0"
"""Holds a figure and its unit together; printed as a space."""


def fitted(
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    width: int,
    *,
    rule: bool = True,
    gap: int = 2,
    keep: int = 1,
    figures: bool = False,
) -> Group:
    """A table of at most `width` columns; text is not parsed as markup.

    Text is wrapped between words. Columns that still do not fit follow in further tables, each with the first `keep` ones before
    it. `figures`: all columns but the first stand right; else those of figures alone.
    """
    cells = [[_joined(text) for text in line] for line in lines]
    right = [bool(figures and i) or _is_of_figures([line[i] for line in lines]) for i in range(len(header))]
    columns = [[title, *(line[i] for line in cells)] for i, title in enumerate(header)]
    words = [max(map(_longest_word, column)) for column in columns]
    least = [min(length, SHORTEST) for length in words]
    natural = [max(map(_longest_line, column)) for column in columns]
    least[0] = min(natural[0], SHORTEST)  # the row's name
    tables = []
    for piece in _pieces(least, width, gap, keep):
        room = width - gap * (len(piece) - 1)
        own_least, own_words, own_natural = ([sizes[i] for i in piece] for sizes in (least, words, natural))
        widths = _widths(own_least, own_words, own_natural, room)
        tables.append(
            _table([columns[i] for i in piece], widths, [right[i] for i in piece], rule=rule, gap=gap)
        )
    return Group(*tables)


def _table(
    columns: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Sequence[bool],
    *,
    rule: bool,
    gap: int,
) -> Table:
    table = Table(box=SIMPLE_HEAD if rule else None, padding=(0, gap - 1 if rule else gap, 0, 0))
    table.show_edge = table.pad_edge = False
    table.show_header = any(column[0] for column in columns)
    for column, width, at_right in zip(columns, widths, right, strict=True):
        side: Literal["left", "right"] = "right" if at_right else "left"
        table.add_column(wrapped(column[0], width), justify=side, no_wrap=True, overflow="fold", width=width)
    for line in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*(wrapped(text, width) for text, width in zip(line, widths, strict=True)))
    return table


def _pieces(least: Sequence[int], width: int, gap: int, keep: int) -> list[list[int]]:
    """The columns of each table; every one has at least one column beside the kept ones."""
    first = list(range(min(keep, len(least))))
    pieces = [list(first)]
    for i in range(len(first), len(least)):
        if len(pieces[-1]) > len(first) and sum(least[j] + gap for j in [*pieces[-1], i]) - gap > width:
            pieces.append(list(first))
        pieces[-1].append(i)
    return pieces


def _widths(least: Sequence[int], words: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Widths from the least on; what is left goes round, first to columns with a broken word, then to all with wrapped lines."""
    widths = list(least)
    while sum(widths) > room and max(widths) > 1:  # a terminal narrower than two columns
        widths[widths.index(max(widths))] -= 1
    for goal in (words, natural):
        spare = room - sum(widths)
        while spare > 0 and (short := [i for i, w in enumerate(widths) if w < goal[i]]):
            for i in short[:spare]:
                widths[i] += 1
            spare -= len(short)
    return widths


def _joined(text: str) -> str:
    """A figure with its unit as one word."""
    return "\n".join(
        line.replace(" ", NBSP) if FIGURE.match(line) and len(line) <= SHORTEST else line
        for line in text.split("\n")
    )


def _is_of_figures(cells: Sequence[str]) -> bool:
    filled = [text for text in cells if text]
    return bool(filled) and all(FIGURE.match(line) for text in filled for line in text.split("\n"))


def _longest_word(text: str) -> int:
    return max(map(cell_len, re.split("[ \n\t]+", text)))


def _longest_line(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def wrapped(text: str, width: int) -> Text:
    """The text with line breaks between words, none inside a figure that `NBSP` holds together."""
    lines = [
        piece
        for line in text.split("\n")
        for piece in (wrap(line, max(width, 1), break_on_hyphens=False) or [""])
    ]
    return Text("\n".join(lines).replace(NBSP, " "))
