"""Labelled pictures with texts from a folder: `<path>/metadata.jsonl`, one JSON object a line with file_name, label and text.

This is the layout of Hugging Face's ImageFolder; Oxford-102 Flowers with Reed's captions and UPMC Food-101 need to be converted
to it.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.shared_media import content, groups
from fedloom.data.sources.pool import Pool

KEYS = ("file_name", "label", "text")


def read_names(path: Path) -> tuple[str, ...]:
    """The label words in alphabetical order. Raises ExperimentError."""
    return tuple(sorted({str(line["label"]) for line in _lines(path)}))


def read_pool(path: Path) -> Pool:
    """All pictures of the folder. Raises ExperimentError for an unusable line or picture."""
    lines, names = _lines(path), read_names(path)
    label_of = {name: i for i, name in enumerate(names)}
    pictures = []
    for line in lines:
        file = path / str(line["file_name"])
        try:
            with Image.open(file) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise ExperimentError(f"data.path: {file} is no readable picture: {error}") from error
        pictures.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    labels = [label_of[str(line["label"])] for line in lines]
    picture_of = groups([[content(picture.numpy().tobytes())] for picture in pictures])
    return Pool(pictures, labels, names, [str(line["text"]) for line in lines], picture_of=picture_of)


def _lines(path: Path) -> list[dict[str, object]]:
    file = path / "metadata.jsonl"
    if not file.is_file():
        raise ExperimentError(
            f"data.path: {file} is missing; the source labelled reads one line per picture with {', '.join(KEYS)}"
        )
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ExperimentError(f"{file}: line {number} is no JSON object: {error}") from error
        if not isinstance(line, dict) or (missing := [k for k in KEYS if k not in line]):
            lacking = missing[0] if isinstance(line, dict) else KEYS[0]
            raise ExperimentError(
                f"{file}: line {number} has no {lacking}; every line needs {', '.join(KEYS)}"
            )
        lines.append(line)
    if not lines:
        raise ExperimentError(f"{file} is empty; every line names one picture")
    return lines
