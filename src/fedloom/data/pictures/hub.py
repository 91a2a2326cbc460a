"""Image classification data from the Hugging Face hub, or from its parquet files on this machine."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.data.media import DEFAULT, Media, MediaSettings
from fedloom.data.media.rows import encoded, row_content
from fedloom.data.pictures.class_names import class_words
from fedloom.data.pictures.known_sets import Known
from fedloom.data.pictures.pictures import Picture, Pictures, held_back

TESTS = ("test", "validation", "valid", "val")
"""Names of test splits; the first present one is used."""


def read_hub(
    repository: str, known: Known, share: float, seed: int, settings: MediaSettings = DEFAULT
) -> Pictures:
    """A data set of the hub. Raises ExperimentError if it cannot be read or has no labelled pictures."""
    from datasets import load_dataset

    try:
        splits = load_dataset(repository)
    except (OSError, ValueError) as error:  # no network, no such data set, a script that may not run
        raise ExperimentError(
            f"data.dataset: {repository} cannot be read ({reason(error)}); name its folder on this machine in data.path"
        ) from error
    return from_splits(splits, repository, known, share, seed, settings)


def read_parquet(
    folder: Path, known: Known, share: float, seed: int, settings: MediaSettings = DEFAULT
) -> Pictures:
    """`train*.parquet` and `test*.parquet` (or validation, or no test part) in or below `folder`, with their own class names.

    Raises ExperimentError for files without a picture column or a label column.
    """
    from datasets import Dataset

    splits: dict[str, Any] = {}
    for name in ("train", *TESTS):
        if files := sorted(str(p) for p in folder.rglob(f"{name}*.parquet")):
            try:
                splits[name] = Dataset.from_parquet(files)
            except Exception as error:  # pyarrow's and datasets' own types
                raise ExperimentError(
                    f"data.path: the parquet files {files[0]} ... cannot be read"
                ) from error
    return from_splits(splits, str(folder), known, share, seed, settings)


def has_parquet(folder: Path) -> bool:
    """Whether a folder holds a training split as parquet."""
    return next(folder.rglob("train*.parquet"), None) is not None


def from_splits(
    splits: Any, origin: str, known: Known, share: float, seed: int, settings: MediaSettings = DEFAULT
) -> Pictures:
    """The pictures of a mapping of splits. Columns are recognised by type: one picture, one label, an optional domain."""
    if "train" not in splits:
        raise ExperimentError(f"data: {origin} has no split train; it has {', '.join(splits) or 'none'}")
    features = splits["train"].features
    image = _one(features, lambda f: type(f).__name__ == "Image", "picture", origin)
    label = (
        known.label
        if known.label in features
        else _one(features, lambda f: type(f).__name__ == "ClassLabel", "label", origin)
    )
    names = _class_names(splits["train"], label)
    kept = known.folders or tuple(n for n in names if n not in known.dropped)
    if missing := [k for k in kept if class_words(k) not in {class_words(n) for n in names}]:
        raise ExperimentError(f"data: {origin} has no class {missing[0]}; it has {', '.join(names[:5])} ...")
    number = {class_words(k): i for i, k in enumerate(kept)}
    numbers = {old: number.get(class_words(n)) for old, n in enumerate(names)}
    parts = [
        _pictures(splits[part], part, names, numbers, image, label, known, settings)
        for part in ("train", next((t for t in (known.test, *TESTS) if t in splits), None))
        if part is not None
    ]
    train, test = parts if len(parts) == 2 else held_back(parts[0], share, seed)
    domains = known.domains or tuple(sorted({p.domain for p in train if p.domain is not None}))
    return Pictures(
        tuple(class_words(k) for k in kept),
        tuple(train),
        tuple(test),
        domains,
        _coarse(splits, label, known, numbers),
    )


def _one(features: Any, fits: Any, what: str, origin: str) -> str:
    columns = [name for name, feature in features.items() if fits(feature)]
    if len(columns) != 1:
        raise ExperimentError(
            f"data: {origin} has {len(columns)} {what} columns among {', '.join(features)}; exactly one is right"
        )
    return str(columns[0])


def _class_names(split: Any, label: str) -> tuple[str, ...]:
    """The label column's class names; else its sorted distinct values as words."""
    named = getattr(split.features[label], "names", None)
    return tuple(named) if named else tuple(sorted(str(v) for v in set(split[label][:])))


def _pictures(
    split: Any,
    part: str,
    names: Sequence[str],
    numbers: dict[int, int | None],
    image: str,
    label: str,
    known: Known,
    settings: MediaSettings,
) -> list[Picture]:
    labels, number_of = split[label][:], {n: i for i, n in enumerate(names)}
    domains = _domains(split, known)
    files = encoded(split, image)
    pictures = []
    for row, value in enumerate(labels):
        old = (
            value
            if isinstance(value, int) and type(split.features[label]).__name__ == "ClassLabel"
            else number_of[str(value)]
        )
        new = numbers[old]
        if new is not None:
            media = Media("image", partial(row_content, files, row, image), settings)
            pictures.append(Picture.of(f"{part}/{row}", new, media, domains[row]))
    return pictures


def _domains(split: Any, known: Known) -> Sequence[str | None]:
    if "domain" not in split.features:
        return [None] * len(split)
    names = getattr(split.features["domain"], "names", None)
    return [names[v] if names else str(v) for v in split["domain"][:]]


def _coarse(splits: Any, label: str, known: Known, numbers: dict[int, int | None]) -> tuple[int, ...]:
    """The coarse class of each class, from the training part."""
    if known.coarse is None or known.coarse not in splits["train"].features:
        return ()
    pairs = zip(splits["train"][label][:], splits["train"][known.coarse][:], strict=True)
    coarse_of = {numbers[fine]: int(coarse) for fine, coarse in pairs if numbers[fine] is not None}
    return tuple(coarse_of[n] for n in range(len(coarse_of)))
