"""The inspection of a user's folder or table: everything that is shown of it, and that an experiment on it depends on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.inspection.columns import Found, check_answers, find_columns
from fedloom.data.inspection.layout import Layout, layout_of
from fedloom.data.inspection.measures import Measure, measured
from fedloom.data.media import KINDS, Media, check_all
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.pictures.folder import read_folder
from fedloom.data.pictures.known_sets import Known
from fedloom.data.sample import Sample
from fedloom.data.sources import parse_source
from fedloom.data.tables.formats import SUFFIXES
from fedloom.data.tables.opening import listed_files

READ = 10_000
"""Samples whose texts and media are looked at, evenly spread over all."""
FEWEST = 4
"""Samples that an experiment needs: two clients, each with one to train on and one to test on."""
_QUESTIONS = {
    "image": "what is in the picture?",
    "audio": "what does the recording say?",
    "video": "what happens?",
}


@dataclass(frozen=True)
class Inspection:
    """The first look at a folder or table.

    `files`: numbers of files by suffix, those that can be read and others. `clients`: samples of each client that the data name.
    `kinds`: samples by what they hold, such as image+audio. `classes`: samples of each label. `longest`: words of the longest
    question and answer. `faults`: a sentence on each sample that cannot be used. `question`: the question to ask about samples
    that bring none.
    """

    layout: Layout
    files: Mapping[str, int]
    other_files: Mapping[str, int]
    found: Found
    samples: int
    kinds: Mapping[str, int]
    clients: Mapping[str, int]
    classes: Mapping[str, int]
    longest: tuple[int, int]
    media: Mapping[str, Measure]
    faults: Sequence[str]
    notes: Sequence[str]
    question: str | None = None

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities of all samples."""
        return frozenset(m for kind in self.kinds for m in kind.split("+")) - {"text"}

    @property
    def has_classes(self) -> bool:
        """Whether the rows of tables are for a classifier."""
        asked = self.question is not None or ("question" in self.found.parts and bool(self.modalities))
        return _has_labels(self.found) and not asked


def inspect(path: Path) -> Inspection:
    """Look at a folder or table; every picture and sound is checked. Raises ExperimentError for one that cannot be used."""
    layout = layout_of(path)
    files, others = _files(path)
    found = find_columns(layout)
    check_answers(layout, found)
    if layout.source == "classes":
        return _pictures(layout, files, others)
    question, clients = _read(layout, found)
    samples = [s for c in clients for part in (c.train, c.test) for s in _spread(part, len(clients))]
    total = sum(len(c.train) + len(c.test) for c in clients)
    if total < FEWEST:
        raise ExperimentError(
            f"{path} holds {total} usable samples, and an experiment needs {FEWEST} or more"
        )
    label = found.parts.get("label")
    classes = Counter(str(s.meta["columns"][label]) for s in samples if label)
    named = layout.source == "folder" or "client" in found.parts
    return Inspection(
        layout,
        files,
        others,
        found,
        total,
        dict(Counter(s.kind for s in samples).most_common()),
        {c.name: len(c.train) + len(c.test) for c in clients} if named else {},
        dict(classes.most_common()),
        (max(len(s.question.split()) for s in samples), max(len(s.answer.split()) for s in samples)),
        measured([m for s in samples for m in _media(s)]),
        [sentence for c in clients for sentence in c.skipped],
        [n for c in clients for n in c.notes if not n.startswith(f"{path}: columns ")],
        question,
    )


def _read(layout: Layout, found: Found) -> tuple[str | None, list[ClientData]]:
    """The question to ask, and the clients; labels of pictures or sounds are asked for only if they are no classes."""
    if _has_labels(found) and "question" not in found.parts:
        try:
            return None, _loaded(layout, found, None)
        except ExperimentError:  # such as labels as many as rows
            pass
    question = None if {"question", "messages"} & set(found.parts) else _asked(found)
    return question, _loaded(layout, found, question)


def _has_labels(found: Found) -> bool:
    return "label" in found.parts and not {"answer", "messages"} & set(found.parts)


def _loaded(layout: Layout, found: Found, question: str | None) -> list[ClientData]:
    """The clients, without the samples that cannot be used."""
    fields: dict[str, Any] = {
        "source": layout.source,
        "path": str(layout.path),
        "skip_bad": True,
        "max_skipped": 0.99,
    }
    if found.parts:
        fields["columns"] = dict(found.parts)
    if question is not None:
        fields["question"] = question
    if layout.source == "table" and "client" not in found.parts:
        fields["clients"] = 1
    return parse_source(fields).load(0)


def _asked(found: Found) -> str | None:
    """The question about samples that bring none, by what they hold."""
    held = [m for m in KINDS if m in found.parts]
    alone = len(held) == 1 and "answer" in found.parts
    return _QUESTIONS.get(held[0], "what is it?") if alone else "what is it?" if held else None


def _spread(samples: Sequence[Sample], parts: int) -> Iterable[Sample]:
    """At most READ samples of all clients together."""
    step = max(1, len(samples) * parts // READ)
    return (samples[i] for i in range(0, len(samples), step))


def _media(sample: Sample) -> Iterable[Media]:
    return sample.modalities.media.values() if isinstance(sample.modalities, MediaFiles) else ()


def _files(path: Path) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Numbers of files by suffix: those of known formats, and others."""
    counts = Counter(f.suffix.lower() or f.name for f in ([path] if path.is_file() else listed_files(path)))
    known = {*SUFFIXES, ".txt", *(suffix for kind in KINDS.values() for suffix in kind.suffixes)}
    ordered = counts.most_common()
    return {s: n for s, n in ordered if s in known}, {s: n for s, n in ordered if s not in known}


def _pictures(layout: Layout, files: Mapping[str, int], others: Mapping[str, int]) -> Inspection:
    """Pictures by class, each checked."""
    pictures = read_folder(layout.path, Known(), 0.2, 0, by_domain=bool(layout.domains))
    listed = [p for part in (pictures.train, pictures.test) for p in part if p.media is not None]
    if len(listed) < FEWEST:
        raise ExperimentError(
            f"{layout.path} holds {len(listed)} pictures, and an experiment needs {FEWEST} or more"
        )
    media = [p.media for p in listed if p.media is not None]
    faults = [
        f"{p.uid}: {f.fault}" for p, f in zip(listed, check_all(media), strict=True) if f.fault is not None
    ]
    classes = Counter(pictures.names[p.label] for p in listed)
    return Inspection(
        layout,
        files,
        others,
        Found(),
        len(listed) - len(faults),
        {"image": len(listed) - len(faults)},
        {},
        dict(classes.most_common()),
        (0, max(len(name.split()) for name in classes)),
        measured(media),
        faults,
        [],
    )
