"""Questions to a trained model from Python: pictures and sounds as objects, arrays or files; one question, or a list of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from fedloom.core.errors import ExperimentError
from fedloom.data.media.given import picture_source, sound_source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

Array: TypeAlias = "NDArray[Any] | Tensor"
File: TypeAlias = str | Path | bytes
"""A file's path, or its content."""
FILES = ("video", "depth", "thermal", "imu")
"""Modalities that are given as files alone."""
Asker = Callable[[Sequence[Mapping[str, Any]]], list[str]]
"""Maps questions to their answers: by modality a file or its content; `text`, `pair` and `max_new_tokens`."""


class Asked:
    """The part of a trained model that answers questions; `fedloom.load` and `Result.model` connect it with the run's task."""

    asker: Asker | None = None

    @overload
    def ask(
        self,
        question: str | None = None,
        *,
        image: "Image | Array | File | None" = None,
        audio: "Array | File | None" = None,
        rate: int | None = None,
        pair: str | None = None,
        max_new_tokens: int | None = None,
        **files: File,
    ) -> str: ...
    @overload
    def ask(
        self,
        question: list[str],
        *,
        image: "list[Any] | Image | Array | File | None" = None,
        audio: "list[Any] | Array | File | None" = None,
        rate: int | None = None,
        pair: list[str] | None = None,
        max_new_tokens: int | None = None,
        **files: Any,
    ) -> list[str]: ...
    @overload
    def ask(
        self,
        question: str | None = None,
        *,
        image: list[Any],
        audio: "list[Any] | Array | File | None" = None,
        rate: int | None = None,
        max_new_tokens: int | None = None,
        **files: Any,
    ) -> list[str]: ...
    @overload
    def ask(
        self,
        question: str | None = None,
        *,
        image: "Image | Array | File | None" = None,
        audio: list[Any],
        rate: int | None = None,
        max_new_tokens: int | None = None,
        **files: Any,
    ) -> list[str]: ...
    def ask(
        self,
        question: Any = None,
        *,
        image: Any = None,
        audio: Any = None,
        rate: Any = None,
        pair: Any = None,
        max_new_tokens: Any = None,
        **files: Any,
    ) -> Any:
        """The answer in words; of a classifier its likeliest labels with their probabilities, one a line.

        Args:
            question: the question, or the text to classify; none where it is spoken, or where a classifier reads a file.
            image: PIL's picture, uint8 array (H, W), (H, W, 3) or (3, H, W), or a file.
            audio: int16 array or floats in [-1, 1], (T,), (T, C) or (C, T), or a file.
            rate: samples per second of an array.
            pair: the second text, for a classifier that compares two.
            max_new_tokens: length limit of a generated answer; 32 if none.
            files: video, depth, thermal or imu, a file each.

        A list stands for one value for each question, and gives a list of answers; what is no list is the same for all.
        Raises ExperimentError for what the model does not read.

        """
        if unknown := [name for name in files if name not in FILES]:
            raise ExperimentError(
                f"ask: there is no {unknown[0]} to ask about; known are image, audio, {', '.join(FILES)}"
            )
        if self.asker is None:
            raise ExperimentError("this model knows no run's task; ask the one that fedloom.load(RUN) gives")
        given = {"text": question, "image": image, "audio": audio, "rate": rate, "pair": pair, **files}
        given["max_new_tokens"] = max_new_tokens
        listed = {name: value for name, value in given.items() if isinstance(value, list | tuple)}
        lengths = {len(value) for value in listed.values()}
        if len(lengths) > 1:
            counts = " and ".join(
                f"{len(v)} for {'question' if n == 'text' else n}" for n, v in listed.items()
            )
            raise ExperimentError(f"ask: lists should be equally long, and there are {counts}")
        count = lengths.pop() if lengths else 1
        rows = [{n: v[k] if n in listed else v for n, v in given.items()} for k in range(count)]
        try:
            answers = self.asker([_one(row) for row in rows])
        except ExperimentError as error:  # the sentences of `fedloom ask` name its options
            says = re.sub(r"(?<!\S)--([\w-]+)", lambda option: option[1].replace("-", "_"), str(error))
            raise ExperimentError(says) from error
        return answers if listed else answers[0]


def _one(row: Mapping[str, Any]) -> dict[str, Any]:
    """One question: texts as they are, media as files or their content. Raises ExperimentError."""
    asked = {name: value for name, value in row.items() if value is not None and name != "rate"}
    for name in ("text", "pair"):
        if not isinstance(asked.get(name, ""), str):
            shown = "question" if name == "text" else name
            raise ExperimentError(f"ask: {shown} should be a text, and is a {type(asked[name]).__name__}")
    limit = asked.get("max_new_tokens", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ExperimentError(f"ask: max_new_tokens should be a whole number from 1, not {limit!r}")
    if row.get("rate") is not None and "audio" not in asked:
        raise ExperimentError("ask: rate belongs to audio, which is not there; leave it out")
    for name, value in asked.items():
        if name in ("text", "pair", "max_new_tokens"):
            continue
        try:
            asked[name] = _source(name, value, row.get("rate"))
        except ValueError as error:
            raise ExperimentError(f"ask: {name} {error}") from error
    return asked


def _source(name: str, value: Any, rate: Any) -> Any:
    """The file of a medium, or its content. Raises ValueError with a clause."""
    if name == "image":
        return picture_source(value)
    if name == "audio":
        return sound_source(value, rate)
    if not isinstance(value, str | Path | bytes):
        raise ValueError(f"should be a file, and is a {type(value).__name__}")
    return Path(value) if isinstance(value, str) else value
