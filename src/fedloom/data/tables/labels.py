"""Classes of one's own: which tables have them, their order, and rows as samples of a classifier."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.data.tables.columns import Columns
from fedloom.data.tables.pool import Pool
from fedloom.data.tables.samples import LazySamples

MOST = 1000
"""Classes beyond which a column is taken for something else, unless the table or data.labels names them."""
FEW = 20
"""Classes that are never too many for the number of rows."""
UNREAD = ("answer", "messages")
"""Parts of a sample that a classifier does not read."""
KINDS = ("image", "audio")
"""Modalities that a classifier reads, one file a sample; texts are the third."""
WORDS = "data.answers: words has a multimodal LLM answer instead"


def have_labels(columns: Columns, question: str | None) -> bool:
    """Whether a table's rows are for a classifier: they have a label and no answer, and are asked nothing about their media."""
    named = columns.named()
    asked = question is not None or ("question" in named and bool(columns.media))
    return "label" in named and not asked and not set(UNREAD) & set(named)


def labelled(pools: Mapping[str, Pool], given: Sequence[str] | None = None) -> dict[str, Pool]:
    """The pools with samples for a classifier; `meta` of each holds `labels`, all classes in their order, and `pair`.

    The order is that of `given`, else of the tables' class names where all state the same, else numbers by value and words by
    their letters. The note on the classes stands with the first pool. Raises ExperimentError for rows that are no classes.
    """
    for name, pool in pools.items():
        if "label" not in pool.parts:
            raise ExperimentError(f"data.columns.label: {name} has no column of labels; name it.")
    kind = _kind(pools)
    counts, trained = _counts(pools)
    stated = {pool.classes for pool in pools.values()}
    classes = tuple(given or (stated.pop() if len(stated) == 1 else ()))
    if classes and (unknown := sorted(set(counts) - set(classes))):
        known = "data.labels" if given else "the table's class names"
        raise ExperimentError(f"data.columns.label: {unknown[0]!r} is not among {known}: {_listed(classes)}.")
    if not classes:
        _check_classes(counts)
        classes = _in_order(counts)
    if given is None and (untrained := [c for c in classes if c in counts and c not in trained]):
        raise ExperimentError(
            f"data.columns.label: the class {untrained[0]!r} has test rows alone; give it training rows, or leave it out."
        )
    if len(classes) < 2:
        raise ExperimentError(
            f"data.columns.label: all rows have the label {classes[0]!r}; a classifier needs two classes or more."
        )
    notes = [f"a classifier learns {len(classes)} classes of {kind}: {_listed(classes)}; {WORDS}"]
    if kind != "texts" and any("question" in pool.parts for pool in pools.values()):
        notes.append(f"questions are not read: classes of {kind} are learned; {WORDS}")
    first = next(iter(pools))
    return {
        name: replace(
            pool, read=_Labelled(pool, classes).part, notes=(*pool.notes, *(notes if name == first else ()))
        )
        for name, pool in pools.items()
    }


class _Labelled:
    """Reads a pool's rows as samples of these classes."""

    def __init__(self, pool: Pool, classes: tuple[str, ...]) -> None:
        self._read, self._classes = pool.read, classes

    def part(self, numbers: Sequence[int]) -> LazySamples:
        """The rows with these numbers, read on every access."""
        return LazySamples(self._sample, numbers)

    def _sample(self, number: int) -> Sample:
        (sample,) = self._read([number])
        return replace(sample, meta={**sample.meta, "labels": self._classes, "pair": sample.meta.get("pair")})


def _kind(pools: Mapping[str, Pool]) -> str:
    """The rows' content in words. Raises ExperimentError unless every row is one text, picture or sound."""
    held = {tuple(m.modality for m in media) for pool in pools.values() for media in pool.media.values()}
    if len(held) == 1 and held <= {(), *((kind,) for kind in KINDS)}:
        return {(): "texts", ("image",): "pictures", ("audio",): "sounds"}[held.pop()]
    shown = " and rows of ".join(sorted(" and ".join(kinds) or "text" for kinds in held))
    raise ExperimentError(
        f"data.path: a classifier reads one text, picture or sound a row, the same in all, and there are rows of {shown}; "
        f"{WORDS}."
    )


def _counts(pools: Mapping[str, Pool]) -> tuple[Counter[str], set[str]]:
    """Rows of each label, and the labels that may be trained on."""
    counts: Counter[str] = Counter()
    trained: set[str] = set()
    for pool in pools.values():
        numbers = list(pool.media)
        for number, sample in zip(numbers, pool.read(numbers), strict=True):
            counts[sample.answer] += 1
            if pool.declared[number] != "test":
                trained.add(sample.answer)
    return counts, trained


def _check_classes(counts: Counter[str]) -> None:
    """Raise ExperimentError for labels that are measurements or names of rows."""
    numbers = [_number(label) for label in counts]
    fractions = [label for label, value in zip(counts, numbers, strict=True) if value and value % 1]
    if fractions and None not in numbers:
        raise ExperimentError(
            f"data.columns.label: the labels are numbers with fractions, such as {fractions[0]}; a classifier needs classes, as "
            "words or whole numbers."
        )
    if len(counts) > MOST or (len(counts) > FEW and 2 * len(counts) > counts.total()):
        raise ExperimentError(
            f"data.columns.label: {len(counts)} different labels in {counts.total()} rows are no classes; name another column, "
            f"or list the classes in data.labels; {WORDS}."
        )


def _in_order(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Numbers by value, anything else by its letters."""
    numbers = {label: _number(label) for label in labels}
    if None in numbers.values():
        return tuple(sorted(labels))
    return tuple(sorted(labels, key=lambda label: (numbers[label] or 0.0, label)))


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _listed(classes: Sequence[str]) -> str:
    shown = ", ".join(label[:40] for label in classes[:10])
    return f"{shown}, and {len(classes) - 10} more" if len(classes) > 10 else shown
