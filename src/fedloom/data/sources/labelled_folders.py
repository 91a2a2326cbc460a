"""Labelled samples of clients with a folder each: `<path>/<client>/metadata.jsonl`, one JSON object a line.

A line has `label`, one of the agreed classes, and `text` at a client that holds texts, else `file_name`. `split`, train or test,
divides a client's samples where a line has it; else a seeded share of every class is held back.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import find_file
from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.media import Media
from fedloom.data.media.sample_files import FileRules, MediaFiles, check_samples
from fedloom.data.partition.settings import LabelledFolders
from fedloom.data.pictures.class_names import class_words
from fedloom.data.sample import Sample
from fedloom.data.sources.labelled_files import read_lines
from fedloom.data.sources.pool import Decoded, Pool

COMMON = "common"
"""The folder of pictures by which the generator is judged, which is no client's."""
SPLITS = ("train", "test")


def folder_clients(root: Path, agreed: LabelledFolders, seed: int, rules: FileRules) -> list[ClientData]:
    """The clients whose folders lie below `root`, all or, at a site, its own; in name order.

    Raises ExperimentError for none, for a folder that is no client's, and for an unusable line or file.
    """
    for file in sorted(root.glob("*/metadata.jsonl")):
        if (name := file.parent.name) != COMMON and name not in agreed.holds:
            raise ExperimentError(
                f"data.path: {file.parent} is none of the clients agreed on in data.partition.holds "
                f"({', '.join(sorted(agreed.holds)[:5])}); rename it, take it away, or agree on it"
            )
    found = [name for name in sorted(agreed.holds) if (root / name).is_dir()]
    if not found:
        raise ExperimentError(
            f"data.path: {root} holds no client of data.partition.holds; right is a folder {sorted(agreed.holds)[0]} with a "
            "metadata.jsonl in it"
        )
    return [_client(root / name, agreed, seed, rules) for name in found]


def common_pictures(root: Path, agreed: LabelledFolders, rules: FileRules) -> Pool | None:
    """The pictures by which the generator is judged; None without their folder. Raises ExperimentError."""
    folder = root / COMMON
    if not folder.is_dir():
        return None
    lines = read_lines(folder, ("file_name", "label"))
    labels = [_label(folder, line, agreed.classes) for line in lines]
    return Pool(Decoded([_media(folder, line, "image", rules) for line in lines]), labels, agreed.classes)


def _client(folder: Path, agreed: LabelledFolders, seed: int, rules: FileRules) -> ClientData:
    name, modality = folder.name, agreed.holds[folder.name]
    lines = read_lines(folder, ("label", "text" if modality == "text" else "file_name"))
    labels = [_label(folder, line, agreed.classes) for line in lines]
    media: dict[int, Media] = {}
    if modality != "text":
        media = {i: _media(folder, line, modality, rules) for i, line in enumerate(lines)}
    skipped = check_samples(
        {i: (one,) for i, one in media.items()}, lambda _, one, fault: str(_unusable(one, fault)), rules
    )
    kept = [i for i in range(len(lines)) if i not in skipped]
    test = _tested(folder, [lines[i] for i in kept], [labels[i] for i in kept], agreed.test_share, seed)
    samples = [
        _sample(f"{name}-{i:06d}", lines[i], media.get(i), modality, labels[i], agreed.classes) for i in kept
    ]
    train, tested = (
        [s for s, held in zip(samples, test, strict=True) if held is part] for part in (False, True)
    )
    return ClientData(name, train, tested, skipped=tuple(skipped.values()))


def _sample(
    uid: str,
    line: Mapping[str, object],
    media: Media | None,
    modality: str,
    label: int,
    classes: tuple[str, ...],
) -> Sample:
    from fedloom.data.digits import mask_names

    meta = {"labels": classes, "label": label}
    if media is None:
        return Sample(uid, {}, mask_names(str(line["text"]), classes)[0], classes[label], meta)
    return Sample(uid, MediaFiles({modality: media}, _unusable), "", classes[label], meta)


def _media(folder: Path, line: Mapping[str, object], modality: str, rules: FileRules) -> Media:
    try:
        return Media(modality, find_file(folder, str(line["file_name"])), rules.media)
    except ValueError as error:
        raise ExperimentError(f"data.path: {folder / str(line['file_name'])}: {error}") from error


def _label(folder: Path, line: Mapping[str, object], classes: Sequence[str]) -> int:
    name = class_words(str(line["label"]))
    if name not in classes:
        raise ExperimentError(
            f"{folder / 'metadata.jsonl'}: {name[:100]!r} is none of the {len(classes)} classes agreed on in data.partition "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"
        )
    return classes.index(name)


def _tested(
    folder: Path, lines: Sequence[Mapping[str, object]], labels: Sequence[int], share: float, seed: int
) -> list[bool]:
    """Whether each sample is a test sample."""
    splits = [line.get("split") for line in lines]
    if any(split is not None for split in splits):
        if wrong := [s for s in splits if s not in SPLITS]:
            raise ExperimentError(
                f"{folder / 'metadata.jsonl'}: split is {str(wrong[0])[:40]!r} in a line; where one line has a split every line "
                f"needs {' or '.join(SPLITS)}"
            )
        return [split == "test" for split in splits]
    rng = numpy_stream(seed, "labelled", "held back", folder.name)
    held: set[int] = set()
    for label in sorted(set(labels)):
        places = [i for i, own in enumerate(labels) if own == label]
        count = min(max(round(share * len(places)), 1), len(places) - 1)
        held.update(rng.permutation(places)[:count].tolist())
    return [i in held for i in range(len(lines))]


def _unusable(media: Media, fault: str) -> ExperimentError:
    return ExperimentError(f"data.path: {media.source} cannot be used: {fault}")
