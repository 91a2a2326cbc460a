"""Counts of a deal: how many samples of each kind, and of each label, every client holds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample

MOST_LABELS = 100
"""More different answers than this are no labels."""


def by_kind(clients: Iterable[ClientData]) -> dict[str, Counter[str]]:
    """Each client's samples by kind: image, audio, image+audio, text and so on."""
    return {c.name: Counter(s.kind for s in (*c.train, *c.test)) for c in clients}


def by_label(clients: Sequence[ClientData], over: str | None = None) -> dict[str, Counter[str]]:
    """Each client's samples by label, or by the column `over`; empty where the answers are free texts.

    Answers are labels if there are at most `MOST_LABELS`, and each of them stands for four samples or more on average.
    """
    counts = {c.name: Counter(_label(s, over) for s in (*c.train, *c.test)) for c in clients}
    labels = {label for own in counts.values() for label in own}
    total = sum(own.total() for own in counts.values())
    return counts if len(labels) <= min(MOST_LABELS, total / 4) else {}


def ordered_labels(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """All labels, the most frequent first, equal ones by name."""
    total: Counter[str] = Counter()
    for own in counts.values():
        total.update(own)
    return sorted(total, key=lambda label: (-total[label], label))


def _label(sample: Sample, over: str | None) -> str:
    columns = sample.meta.get("columns") or {}
    value = columns.get(over) if over in columns else sample.meta.get(over) if over else None
    return str(sample.answer if value is None else value)
