"""Labelled pictures with texts from a folder: `<path>/metadata.jsonl`, one JSON object a line with file_name, label and text.

Further entries are columns that `data.partition` may deal by.

This is the layout of Hugging Face's ImageFolder; Oxford-102 Flowers with Reed's captions and UPMC Food-101 need to be converted
to it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import find_file, text_lines
from fedloom.data.media import Media
from fedloom.data.partition.rows import Value
from fedloom.data.partition.shared_media import content, groups
from fedloom.data.sources.file_source import STRICT, FileRules, check_samples
from fedloom.data.sources.pool import Decoded, Pool, unreadable

KEYS = ("file_name", "label", "text")


def read_names(path: Path) -> tuple[str, ...]:
    """The label words in alphabetical order. Raises ExperimentError."""
    return tuple(sorted({str(line["label"]) for line in read_lines(path)}))


def read_pool(path: Path, rules: FileRules = STRICT) -> Pool:
    """All pictures of the folder; those that cannot be used are left out if `rules` say so.

    Raises ExperimentError for an unusable line or picture.
    """
    lines, names = read_lines(path), read_names(path)
    label_of = {name: i for i, name in enumerate(names)}
    media = {}
    for number, line in enumerate(lines):
        try:
            media[number] = Media("image", find_file(path, str(line["file_name"])), rules.media)
        except ValueError as error:
            raise ExperimentError(f"data.path: {path / str(line['file_name'])}: {error}") from error
    skipped = check_samples(
        {number: (one,) for number, one in media.items()},
        lambda _, one, fault: str(unreadable(one, fault)),
        rules,
    )
    kept = [number for number in media if number not in skipped]
    pictures = Decoded([media[n] for n in kept])
    return Pool(
        pictures,
        [label_of[str(lines[n]["label"])] for n in kept],
        names,
        [str(lines[n]["text"]) for n in kept],
        picture_of=groups([[content(picture.numpy().tobytes())] for picture in pictures]),
        skipped=tuple(skipped.values()),
        columns=_columns([lines[n] for n in kept]),
    )


def _columns(lines: Sequence[Mapping[str, object]]) -> dict[str, list[Value]]:
    """Entries beside KEYS that are a text or a number in every line that has them; "" in the others."""
    names = dict.fromkeys(name for line in lines for name in line if name not in KEYS)
    found = {name: [line.get(name, "") for line in lines] for name in names}
    return {
        name: [v for v in values if isinstance(v, str | int | float)]
        for name, values in found.items()
        if all(isinstance(v, str | int | float) for v in values)
    }


def read_lines(path: Path, keys: Sequence[str] = KEYS) -> list[dict[str, object]]:
    """The lines of `<path>/metadata.jsonl`, each with these keys. Raises ExperimentError."""
    file = path / "metadata.jsonl"
    if not file.is_file():
        raise ExperimentError(
            f"data.path: {file} is missing; the source labelled reads one line per sample with {', '.join(keys)}"
        )
    lines = []
    for number, text in enumerate(text_lines(file, "utf-8-sig"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ExperimentError(f"{file}: line {number} is no JSON object: {error}") from error
        if not isinstance(line, dict) or (missing := [k for k in keys if k not in line]):
            lacking = missing[0] if isinstance(line, dict) else keys[0]
            raise ExperimentError(
                f"{file}: line {number} has no {lacking}; every line needs {', '.join(keys)}"
            )
        lines.append(line)
    if not lines:
        raise ExperimentError(f"{file} is empty; every line names one sample")
    return lines
