"""Captioned pictures from own files for federated pre-training, read by Hugging Face's `datasets`.

Input: a folder with pictures and a `metadata.jsonl` or `.csv` (ImageFolder), a folder of parquet files, a saved data set, or a
name on the hub. Subfolders that are such data sets become one source of captions each. The picture column is the first of type
Image, the caption column the first of CAPTIONS.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.media import DEFAULT, Media, MediaSettings
from fedloom.data.media.rows import encoded, row_content
from fedloom.data.partition.captions import (
    Captions,
    assign,
    by_source,
    clusters,
    noisy_clients,
    shuffled,
    sizes,
)
from fedloom.data.partition.rows import Value
from fedloom.data.partition.shared_media import content, contents, cut, groups, together
from fedloom.data.sample import Sample
from fedloom.data.sources.file_source import STRICT, FileRules, MediaFiles, check_samples
from fedloom.data.sources.source import Features

CAPTIONS = ("caption", "text", "captions", "sentence", "answer", "blip_caption")


def read_captions(
    path: str, question: str = "", settings: MediaSettings = DEFAULT, over: str | None = None
) -> tuple[list[Sample], list[int], list[int]]:
    """All captioned pictures, the indices of their sources, and a number for each picture; empty captions are skipped.

    `over`: a column whose values stand in `columns` of the samples' meta. Raises ExperimentError.
    """
    folder = Path(path)
    parts = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    folders = [p for p in parts if any((p / m).is_file() for m in ("metadata.jsonl", "metadata.csv"))]
    folders = folders or [p for p in parts if any(p.glob("*.parquet"))]
    samples: list[Sample] = []
    source: list[int] = []
    pictures: list[Hashable] = []
    for number, place in enumerate([str(p) for p in folders] or [path]):
        rows = _rows(place)
        image, caption = _columns(rows, place)
        stored = encoded(rows, image)
        of_row = _pictures(stored, image)
        values = None if over is None else _values(rows, over, place)
        for row, text in enumerate(rows[caption]):
            first = text[0] if isinstance(text, list) and text else text
            if isinstance(first, str) and first.strip():
                uid = f"{Path(place).name}/{row}"
                media = {"image": Media("image", partial(row_content, stored, row, image), settings)}
                error = partial(_unusable, f"row {row} of {place}")
                meta = {"row": row} if values is None else {"row": row, "columns": {over: values[row]}}
                samples.append(Sample(uid, MediaFiles(media, error), question, first.strip(), meta))
                source.append(number)
                pictures.append(of_row[row])
    if not samples:
        raise ExperimentError(f"data.path: {path} holds no captioned picture")
    known = contents({file for file in pictures if isinstance(file, Path) and file.is_file()})
    return samples, source, groups([[known.get(p, p) if isinstance(p, Path) else p] for p in pictures])


def _values(rows: Any, over: str, place: str) -> list[Value]:
    """A column of texts or numbers; an empty cell is "". Raises ExperimentError for another column, or none."""
    plain = [n for n, f in rows.features.items() if type(f).__name__ in ("Value", "ClassLabel")]
    if over not in plain:
        raise ExperimentError(
            f"data.partition.over: {place} has no column {over!r} of texts or numbers; known are "
            f"{', '.join(sorted(plain)) or 'none'}."
        )
    name_of = getattr(rows.features[over], "int2str", lambda v: v if isinstance(v, int | float) else str(v))
    return ["" if v is None else name_of(v) for v in rows[over]]


def _pictures(rows: Any, image: str) -> list[Hashable]:
    """The file of every `encoded` row's picture, or a key for its content where the row holds the picture itself."""
    pictures: list[Hashable] = []
    for row, stored in enumerate(rows[image]):
        data, path = (stored or {}).get("bytes"), (stored or {}).get("path")
        pictures.append(content(data) if data is not None else row if path is None else Path(path))
    return pictures


def _unusable(where: str, media: Media, fault: str) -> ExperimentError:
    return ExperimentError(f"data.path: the picture in {where} cannot be used ({fault})")


def unusable(samples: Sequence[Sample], rules: FileRules) -> dict[str, str]:
    """The samples to leave out by uid, and why. Raises ExperimentError as `check_samples` does."""
    by_uid = {s.uid: s.modalities for s in samples if isinstance(s.modalities, MediaFiles)}
    return check_samples(
        {uid: tuple(files.media.values()) for uid, files in by_uid.items()},
        lambda uid, media, fault: str(by_uid[uid].error(media, fault)),
        rules,
    )


def _rows(place: str) -> Any:
    import datasets

    hf_bars = datasets.utils.logging
    hf_bars.disable_progress_bar()
    try:
        if (Path(place) / "state.json").is_file():
            return datasets.load_from_disk(place)
        return datasets.load_dataset(place, split="train")
    except Exception as error:  # datasets raises many types for unreadable data
        raise ExperimentError(
            f"data.path: {place} cannot be read as a data set ({' '.join(str(error).split())[:160]})"
        ) from error


def _columns(rows: Any, place: str) -> tuple[str, str]:
    image = next((n for n, f in rows.features.items() if type(f).__name__ == "Image"), None)
    caption = next((n for n in CAPTIONS if n in rows.features), None)
    if image is None or caption is None:
        raise ExperimentError(
            f"data.path: {place} has the columns {', '.join(rows.features)}; it needs a column of pictures and one called "
            f"{' or '.join(CAPTIONS[:2])}"
        )
    return image, caption


def clients_from_files(
    path: str,
    settings: Captions,
    clients: int,
    train: int,
    test: int,
    seed: int,
    features: Features | None,
    rules: FileRules = STRICT,
) -> list[ClientData]:
    """`clients` silos with on average `train` and `test` pictures each, partitioned by the scenario.

    `features` is used by the scenario topic only, which reads every picture; else the dealt ones are checked. Raises
    ExperimentError.
    """
    samples, source, picture_of = read_captions(path, settings.question, rules.media)
    skipped: dict[str, str] = {}
    train_sizes = sizes(clients * train, clients, settings.quantity, settings.least, seed)
    total_sizes = [n + test for n in train_sizes]
    if settings.scenario == "source":
        if len(set(source)) < 2:
            raise ExperimentError(
                "data.captions.scenario: source needs a data.path with a folder for each source of captions"
            )
        parts = by_source(source, total_sizes, seed, picture_of)
    elif settings.scenario == "topic":
        if features is None:
            raise ExperimentError(
                "data.captions.scenario: topic needs the encoder; use it with fedloom run, or take iid, source or quality"
            )
        skipped = unusable(samples, rules)
        usable = [i for i, sample in enumerate(samples) if sample.uid not in skipped]
        samples, source = [samples[i] for i in usable], [source[i] for i in usable]
        picture_of = [picture_of[i] for i in usable]
        topics = clusters(features(samples).double().numpy(), settings.topics, seed)
        parts = assign(topics, total_sizes, settings.dirichlet, seed, picture_of)
    else:
        parts = assign(source, total_sizes, None, seed, picture_of)
    skipped = skipped or unusable([samples[i] for part in parts for i in part], rules)
    noisy = noisy_clients(clients, settings.noisy, seed) if settings.scenario == "quality" else []
    clients_data = []
    for k, part in enumerate(parts):
        order = numpy_stream(seed, "captions", "test", k).permutation(len(part)).tolist()
        tested, trained = cut(together([part[i] for i in order], picture_of), [test, len(part)])
        if not trained:
            raise ExperimentError(
                f"data.train: all captions of client {k + 1} are of pictures that it is tested on; raise data.train"
            )
        test_samples, training = (
            [samples[i] for i in chosen if samples[i].uid not in skipped] for chosen in (tested, trained)
        )
        if k in noisy:
            sources = shuffled(len(training), settings.shuffled, seed, k)
            training = [replace(s, answer=training[j].answer) for s, j in zip(training, sources, strict=True)]
        left_out = [skipped.pop(samples[i].uid) for i in part if samples[i].uid in skipped]
        clients_data.append(ClientData(f"image-{k + 1:02d}", training, test_samples, left_out))
    first, *others = clients_data
    return [replace(first, skipped=[*first.skipped, *skipped.values()]), *others]
