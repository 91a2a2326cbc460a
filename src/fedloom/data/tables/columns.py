"""The columns of a table by their part in a sample: named by a setting, or guessed from usual names and types."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS
from fedloom.data.tables.cells import SPLITS

MEDIA = ("image", "video", "audio", "depth", "thermal", "imu")
"""Parts that are media files, by the modality's name."""
TEXTS = ("question", "answer")
"""Parts that a conversation holds itself."""
_TYPES = {"Image": "image", "Audio": "audio", "ClassLabel": "label"}
_USUAL: Mapping[str, tuple[str, ...]] = {
    "image": (
        "images",
        "img",
        "imgs",
        "pic",
        "picture",
        "pictures",
        "photo",
        "pixels",
        "pixel_values",
        "jpg",
        "jpeg",
        "png",
        "image_name",
        "image_path",
        "image_file",
    ),
    "audio": (
        "audios",
        "sound",
        "sounds",
        "speech",
        "wav",
        "voice",
        "recording",
        "clip",
        "audio_name",
        "audio_path",
        "audio_file",
    ),
    "video": ("videos", "movie", "video_path", "video_file"),
    "depth": (),
    "thermal": (),
    "imu": ("motion", "accelerometer"),
    "question": ("questions", "query", "prompt", "instruction", "text_input", "problem"),
    "answer": (
        "answers",
        "output",
        "response",
        "caption",
        "captions",
        "target",
        "completion",
        "solution",
        "multiple_choice_answer",
    ),
    "label": ("labels", "class", "category", "intent", "class_label"),
    "client": (
        "clients",
        "client_id",
        "user",
        "user_id",
        "writer",
        "writer_id",
        "speaker",
        "speaker_id",
        "site",
        "hospital",
    ),
    "split": ("splits", "partition", "subset", "fold"),
    "messages": ("conversations", "conversation"),
}
"""Usual names of each part beside its own; the order of parts is the order of the sentence on a guess."""
_ANSWER_TEXTS = ("text", "sentence", "transcription", "transcript", "description")
"""Names of a text that is the answer of a captioned picture or a transcribed sound, and the question of anything else."""
_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("question", "sentence"),
)
"""Names of two texts that have a label together."""
_FILE_NAMES = ("file_name", "filename", "file", "file_path", "filepath", "path")
"""Names of a column of files of one modality, which their suffixes tell."""
_MOST_SHOWN = 12
"""Ignored columns that are named."""


class Columns(BaseModel):
    """The column of each part of a sample; none = guessed from the usual names, or absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = Field(None, description="pictures: files, their names, or lists of them")
    audio: str | None = Field(None, description="sounds: files, their names, or lists of them")
    video: str | None = Field(None, description="videos")
    depth: str | None = Field(None, description="depth maps")
    thermal: str | None = Field(None, description="thermal pictures")
    imu: str | None = Field(None, description="motion traces")
    question: str | None = Field(None, description="the question or instruction")
    answer: str | None = Field(None, description="the answer: a text, a number, or a list of answers")
    label: str | None = Field(None, description="the class; the answer where there is no column of answers")
    client: str | None = Field(None, description="the client that holds the row")
    split: str | None = Field(None, description="train, validation or test")
    pair: str | None = Field(None, description="the second text, for classes of two texts")
    messages: str | None = Field(
        None, description="a conversation, as LLaVA's conversations or OpenAI's messages"
    )

    @model_validator(mode="after")
    def _messages_alone(self) -> "Columns":
        if self.messages and (self.question or self.answer):
            raise ValueError(
                "messages hold their questions and answers; leave columns.question and columns.answer out"
            )
        return self

    def named(self) -> dict[str, str]:
        """The columns that are there, by part."""
        return {part: column for part, column in self if column is not None}

    @property
    def media(self) -> dict[str, str]:
        """The columns of media by modality."""
        return {part: column for part, column in self.named().items() if part in MEDIA}


GUESSED = Columns()
"""No column is named: all are guessed."""


def find(
    given: Columns,
    features: Mapping[str, str],
    name: str,
    samples: Callable[[str], Iterable[Any]],
    unwanted: Collection[str] = (),
    kept: Collection[str] = (),
) -> tuple[Columns, tuple[str, ...]]:
    """The table's columns and the sentences to show: what was guessed, and which columns are ignored.

    Args:
        given: the columns that the settings name.
        features: the type of each column of the table, as in `Rows.features`.
        name: the table, for messages.
        samples: some values of a column, to tell files of pictures from files of sounds, and splits from other words.
        unwanted: parts that are not guessed, since nothing reads them.
        kept: further columns that are read.

    Raises ExperimentError for a named column that is not there, and where several may be meant.

    """
    for part, column in given.named().items():
        if column not in features:
            raise ExperimentError(
                f"data.columns.{part}: {name} has no column {column!r}; it has {', '.join(features) or 'none'}."
            )
    taken = dict(given.named())
    free = [c for c in features if c not in taken.values()]
    ranks = {column: _ranks(column, features[column], samples) for column in free}
    for part in _USUAL:
        if part in taken or part in unwanted or (part in TEXTS and "messages" in taken):
            continue
        if part == "messages" and any(text in taken and text in given.named() for text in TEXTS):
            continue
        ranked = {c: ranks[c][part] for c in free if part in ranks[c] and c not in taken.values()}
        best = [c for c in ranked if ranked[c] == min(ranked.values())]
        if len(best) > 1:
            raise ExperimentError(
                f"data.columns.{part}: {name} has the columns {' and '.join(best)}, and each may be the {part}; name one, as "
                f"in columns: {{{part}: {best[0]}}}."
            )
        if best:
            taken[part] = best[0]
    _add_pair(taken, [c for c in features if c not in given.named().values()])
    _add_text(taken, [c for c in free if c not in taken.values()])
    if "messages" in taken:  # a conversation holds its questions and answers
        taken = {part: c for part, c in taken.items() if part not in TEXTS}
    guessed = {part: c for part, c in taken.items() if part not in given.named()}
    ignored = [c for c in features if c not in (*taken.values(), *kept)]
    notes = []
    if guessed:
        listed = ", ".join(f"{part}: {guessed[part]}" for part in (*_USUAL, "pair") if part in guessed)
        notes.append(f"{name}: columns guessed from their names: {{{listed}}}")
    return Columns(**taken), (*notes, *not_read(name, ignored))


def not_read(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    """The note on a table's columns that mean nothing; none without any."""
    more = f" and {len(columns) - _MOST_SHOWN} more" if len(columns) > _MOST_SHOWN else ""
    return (f"{name}: columns not read: {', '.join(columns[:_MOST_SHOWN])}{more}",) if columns else ()


def _ranks(column: str, kind: str, samples: Callable[[str], Iterable[Any]]) -> dict[str, int]:
    """The parts that a column may be, 0 for its own name, 1 for its type, 2 for a usual name, 3 for a file of some kind."""
    name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
    ranks = {}
    if kind in _TYPES:
        ranks[_TYPES[kind]] = 1
    for part, usual in _USUAL.items():
        if name == part:
            ranks[part] = 0
        elif name == f"{part}_file_name" and part in MEDIA:
            ranks[part] = 2
        elif name in usual:
            ranks[part] = min(ranks.get(part, 2), 2)
    if ranks.get("split") and not all(str(value).lower() in SPLITS for value in samples(column) if value):
        del ranks["split"]
    if not ranks and name in _FILE_NAMES and (modality := _modality(samples(column))):
        ranks[modality] = 3
    return ranks


def _modality(values: Iterable[Any]) -> str | None:
    """The modality of files, by the first name's suffix."""
    for value in values:
        suffix = Path(value).suffix.lower() if isinstance(value, str) else ""
        for modality in ("image", "video", "audio", "imu"):
            if suffix in KINDS[modality].suffixes:
                return modality
    return None


def _add_pair(taken: dict[str, str], free: list[str]) -> None:
    """Take the columns of two texts that have a label together; a text that is named already stays the first."""
    if "label" not in taken or any(part in taken for part in ("answer", "messages", "pair", *MEDIA)):
        return
    by_name = {c.lower(): c for c in free}
    for first, second in _PAIRS:
        if first in by_name and second in by_name and taken.get("question", by_name[first]) == by_name[first]:
            taken |= {"question": by_name[first], "pair": by_name[second]}
            return


def _add_text(taken: dict[str, str], free: list[str]) -> None:
    """Take a column of plain text as the answer about media, or as the question where there is an answer or a label."""
    if "messages" in taken:
        return
    text = next((c for name in _ANSWER_TEXTS for c in free if c.lower() == name), None)
    if text is None:
        return
    if not {"answer", "label"} & set(taken):
        if any(part in MEDIA for part in taken):
            taken["answer"] = text
    elif "question" not in taken and not any(part in MEDIA for part in taken):
        taken["question"] = text
