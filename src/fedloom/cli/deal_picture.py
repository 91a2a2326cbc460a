"""The deal as a picture in the terminal: clients by kinds and by labels, as counts in cells of four shades."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from fedloom.cli.output import out, plain_table
from fedloom.core.terminal_tables import NBSP
from fedloom.data.deal_counts import by_kind, by_label, ordered_labels

CLIENTS = 20
"""Most clients that are drawn."""
_SHADES = " ░▒▓█"
_NAME, _LABEL = 18, 9


def show_deal(clients: Sequence[Any], over: str | None = None) -> None:
    """Print who holds how many samples of each kind and, where the answers are labels, of each label."""
    pictures = {"kind": by_kind(clients), over or "label": by_label(clients, over)}
    for what, counts in pictures.items():
        labels = ordered_labels(counts)
        if len(labels) > 1:
            draw(what, counts, labels)


def draw(what: str, counts: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> None:
    """Print one picture as wide as the terminal; what has no room is said below."""
    most = max(n for own in counts.values() for n in own.values())
    room = max(out.width - _NAME, 1) // len(labels) - 2
    longest = min(max(room, _LABEL), _NAME)
    names = [_short(name, _NAME) for name in list(counts)[:CLIENTS]]
    width = max(map(len, names), default=0) + 2
    shown: list[str] = []
    for label in labels:
        width += max(len(_short(label, longest)), len(str(most)) + 2) + 2
        if width > out.width:
            break
        shown.append(label)
    rows = [
        (name, *(_cell(own.get(label, 0), most) for label in shown))
        for name, own in zip(names, counts.values(), strict=False)
    ]
    out.print(Text(f"\nsamples by {what}, of at most {most}", style="bold"))
    header = ("client", *(_short(label, longest) for label in shown))
    out.print(plain_table(header, rows, out.width))
    hidden = [(len(counts) - len(rows), "client"), (len(labels) - len(shown), what)]
    if said := [f"{n} further {noun}{'s' if n > 1 else ''}" for n, noun in hidden if n > 0]:
        out.print(Text(f"not drawn: {' and '.join(said)}"))


def _cell(count: int, most: int) -> str:
    """The count behind a shade: blank for none, then by quarters of the largest count."""
    return f"{_SHADES[-(-4 * count // most)]} {count}".replace(" ", NBSP)


def _short(text: str, most: int) -> str:
    text = " ".join(text.split()) or "(empty)"
    return text if len(text) <= most else f"{text[: most - 1]}…"
