"""The samples of a report: media, questions and each row's answers."""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.read import Run, SampleRecord, inside
from fedloom.tasks.metrics.text import exact_match

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}

PER_KIND = 12
"""Largest number of shown samples per kind; `samples/samples.json` has the others."""


@dataclass(frozen=True)
class Medium:
    """A picture or a sound as a data: URI, and its modality."""

    modality: str
    uri: str
    sound: bool


@dataclass(frozen=True)
class Answer:
    """A row's answer to a sample; right or wrong by the exact match metric, None if unanswered."""

    row: str
    before: str | None
    after: str | None
    before_right: bool | None
    after_right: bool | None


@dataclass
class Card:
    """One sample with its media, and every row's answers."""

    sample: SampleRecord
    media: tuple[Medium, ...]
    answers: list[Answer] = field(default_factory=list)


@dataclass
class Kind:
    """The samples of one kind ("image", "image+audio", ...); `hidden` is the number of further ones in the run folder."""

    name: str
    cards: list[Card] = field(default_factory=list)
    hidden: int = 0


def kinds_of(study: Study) -> list[Kind]:
    """Samples by kind. Rows with the same sample share a card, so that its media are stored once.

    Each row shows its first run with samples. A missing medium, or one of an unknown type, raises
    ExperimentError.
    """
    kinds: dict[str, Kind] = {}
    cards: dict[tuple[object, ...], Card | None] = {}
    for row, runs in study.rows.items():
        run = next((run for run in runs if run.samples), runs[0])
        for sample in run.samples:
            media = tuple(_media(run, sample))
            key = (sample.uid, sample.client, sample.kind, sample.question, media)
            kind = kinds.setdefault(sample.kind, Kind(sample.kind))
            if key not in cards:
                full = len(kind.cards) >= PER_KIND
                cards[key] = None if full else Card(sample, media)
                kind.hidden += full
                kind.cards += [] if full else [cards[key]]  # type: ignore[list-item]
            card = cards[key]
            if card is not None:
                card.answers.append(_answer(row, sample))
    return list(kinds.values())


def is_right(answer: str | None, reference: str) -> bool | None:
    """Whether an answer matches the reference by the exact match metric; None for no answer, or nothing to match."""
    if answer is None or not reference.strip():
        return None
    return exact_match([answer], [reference]) == [1.0]


def _answer(row: str, sample: SampleRecord) -> Answer:
    right = [is_right(text, sample.reference) for text in (sample.before, sample.after)]
    return Answer(row, sample.before, sample.after, *right)


def _media(run: Run, sample: SampleRecord) -> list[Medium]:
    media = []
    for modality in ("image", "video", "depth", "thermal", "audio", "imu"):
        name: str | None = getattr(sample, modality)
        if name:
            media.append(_medium(modality, run.folder / "samples", name))
    return media


def _medium(modality: str, folder: Path, name: str) -> Medium:
    path = inside(folder, name, folder / "samples.json")
    mime = {**PICTURES, **SOUNDS}.get(path.suffix.lower())
    if mime is None:
        known = ", ".join([*PICTURES, *SOUNDS])
        raise ExperimentError(f"{path} is neither a picture nor a sound that a page can show: use {known}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path} is named in samples.json but cannot be read: restore it.") from error
    uri = f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
    return Medium(modality, uri, path.suffix.lower() in SOUNDS)
