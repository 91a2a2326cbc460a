"""Labelled samples of one modality per client: pictures, descriptions or sounds of the same classes, for clients with models of
their own.

Every picture of the pool is assigned to one modality and one client: a text client holds descriptions of pictures that no image
client holds. Descriptions never contain the class name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream, stream_seed
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.dirichlet import Share, label_skew
from fedloom.data.partition.shared_media import cut, together
from fedloom.data.sample import Sample
from fedloom.data.sources.file_source import STRICT, FileRules, FileSource
from fedloom.data.sources.pool import Pool
from fedloom.data.sources.source import Features, checked_counts

HOLDINGS: tuple[Holding, ...] = ("image", "text", "audio")
"""Modalities of this source; a client holds exactly one."""
ALIKE = 1e6
"""A Dirichlet parameter large enough for equal mixes at all clients."""
LEAST = 8
"""Minimum samples per client, in the training and in the test part (specification fedmmkt 6)."""


class LabelledSource(FileSource):
    """Pictures, descriptions or sounds of the same classes, one modality per client."""

    for_task: ClassVar[str] = "own-models"

    source: Literal["labelled"] = "labelled"
    dataset: str = Field("tabletop", description="handwriting, tabletop, or any name beside data.path")
    path: Path | None = Field(None, description="pictures by class with their texts; none = generate")
    clients: dict[Holding, int] = Field(
        {"image": 3, "audio": 3},
        description="number of clients per modality, as {image: N, text: N, audio: N}",
    )
    train: int = Field(160, ge=1, description="training samples per client of a modality, on average")
    test: int = Field(40, ge=1, description="test samples per client of a modality, on average")
    dirichlet: float | None = Field(
        0.5, gt=0, description="Dirichlet parameter of the clients' label mixes; none = all clients alike"
    )

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "labelled", HOLDINGS, "{image: N, text: N, audio: N}")
        return value

    @property
    def samples_in_files(self) -> bool:
        """See Source: pictures that are not generated; sounds and texts are made of them in memory."""
        return self.path is not None and self.clients.get("image", 0) > 0

    def class_names(self) -> tuple[str, ...]:
        """The class names in label order. Raises ExperimentError."""
        return class_names(self.dataset, self.path)

    def pool(self, seed: int) -> Pool:
        """The pool of all pictures before partitioning. Raises ExperimentError."""
        count = (self.train + self.test) * sum(self.clients.values())
        return open_pool(self.dataset, self.path, count, seed, self.rules)

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients image-01, text-01, audio-01 and so on."""
        counts = {str(h): n for h, n in self.clients.items()}
        return labelled_clients(self.pool(seed), counts, self.train, self.test, self.dirichlet, seed)


def class_names(dataset: str, path: Path | None) -> tuple[str, ...]:
    """A data set's class names in label order. Raises ExperimentError."""
    if path is not None:
        from fedloom.data.sources.labelled_files import read_names

        return read_names(path)
    if dataset == "handwriting":
        from fedloom.data.digits import DIGITS

        return DIGITS
    if dataset == "tabletop":
        from fedloom.data.tabletop.scene import SHAPES

        return tuple(SHAPES)
    raise ExperimentError(
        f"data.dataset: the source labelled knows handwriting and tabletop, not {dataset!r}; for pictures of your own name "
        "their folder in data.path"
    )


def open_pool(dataset: str, path: Path | None, count: int, seed: int, rules: FileRules = STRICT) -> Pool:
    """A data set's pool; `count` is the number of generated pictures. Raises ExperimentError."""
    names = class_names(dataset, path)
    if path is not None:
        from fedloom.data.sources.labelled_files import read_pool

        return read_pool(path, rules)
    if dataset == "handwriting":
        from fedloom.data.digits import handwriting

        pictures, labels = handwriting()
    else:
        from fedloom.data.digits import tabletop_objects
        from fedloom.data.tabletop.styles import PRIVATE_STYLES

        pictures, labels = tabletop_objects(count, seed, "private", PRIVATE_STYLES)
    return Pool(list(pictures), labels.tolist(), names)


def labelled_clients(
    pool: Pool, clients: Mapping[str, int], train: int, test: int, alpha: float | None, seed: int
) -> list[ClientData]:
    """Clients image-01, ..., text-01, ..., audio-01, ..., ordered by name.

    Args:
        pool: the pictures to distribute.
        clients: number of clients per modality.
        train: training samples per client of a modality, on average.
        test: test samples per client of a modality, on average.
        alpha: Dirichlet parameter of the label mixes, drawn for each modality; None gives all clients the pool's mix.
        seed: the run's seed.

    Raises:
        ExperimentError: the pool is too small, or no draw gives every client enough.

    """
    if wrong := [h for h, n in clients.items() if n and h not in HOLDINGS]:
        raise ExperimentError(
            f"the source labelled has no clients that hold {wrong[0]}; set data.clients to {{image: N, text: N, audio: N}}"
        )
    required = (train + test) * sum(clients.values())
    if required > len(pool.labels):
        raise ExperimentError(
            f"data: {sum(clients.values())} clients of {train} + {test} samples need {required} pictures, and there are "
            f"{len(pool.labels)}; lower data.train, data.test or data.clients"
        )
    order = numpy_stream(seed, "labelled").permutation(len(pool.labels)).tolist()
    grouped = together(order, range(len(order)) if pool.picture_of is None else pool.picture_of)
    sizes = [size * clients.get(modality, 0) for modality in HOLDINGS for size in (train, test)]
    dealt = cut(grouped, sizes)  # a picture with several texts stays in one modality and part
    if [len(part) for part in dealt] != sizes:
        raise ExperimentError(
            f"data: {required} samples are too many if all texts of a picture stay in one part; lower data.train, data.test "
            "or data.clients"
        )
    clients_data = []
    for modality, training, tested in zip(HOLDINGS, dealt[::2], dealt[1::2], strict=True):
        count = clients.get(modality, 0)
        if not count:
            continue
        part, first_test = [*training, *tested], len(training)
        labels = [pool.labels[i] for i in part]
        if count == 1:  # no draw: the single client holds the whole part
            shares = [Share(tuple(range(first_test)), tuple(range(test)))]
        else:
            shares = label_skew(
                labels[:first_test],
                labels[first_test:],
                count,
                ALIKE if alpha is None else alpha,
                seed,
                least=min(LEAST, train, test),
                stream=f"labelled {modality}",
            )
        for number, share in enumerate(shares, 1):
            own_training, own_test = (
                [sample_of(pool, part[at + i], modality, seed, number) for i in places]
                for at, places in ((0, share.train), (first_test, share.test))
            )
            clients_data.append(ClientData(f"{modality}-{number:02d}", own_training, own_test))
    first, *others = sorted(clients_data, key=lambda c: c.name)
    return [replace(first, skipped=pool.skipped), *others]


def sample_of(pool: Pool, index: int, modality: str, seed: int, writer: int) -> Sample:
    """A picture of the pool as a sample of `modality`; `writer` selects the vocabulary of a description."""
    label = pool.labels[index]
    meta = {"labels": pool.names, "label": label}
    uid, answer = f"{modality}-{index:06d}", pool.names[label]
    if modality == "image":
        return Sample(uid, pool.inputs(index), "", answer, meta)
    if modality == "audio":
        from fedloom.data.digits import sonify

        return Sample(uid, {"audio": sonify(pool.pictures[index])}, "", answer, meta)
    if pool.texts is not None:
        text = pool.texts[index]
    else:
        from fedloom.data.digits import WORDINGS, describe

        private = 1 + (writer - 1) % (len(WORDINGS) - 1)
        text = describe(pool.pictures[index], stream_seed(seed, "describe", index), wording=private)
    from fedloom.data.digits import mask_names

    return Sample(uid, {}, mask_names(text, pool.names)[0], answer, meta)


def as_tensor(texts: Sequence[str]) -> Tensor:
    """Texts encoded as uint8 (N, L), UTF-8, padded with zeros."""
    encoded = [text.encode() for text in texts]
    codes = torch.zeros(len(encoded), max((len(c) for c in encoded), default=0), dtype=torch.uint8)
    for row, code in zip(codes, encoded, strict=True):
        row[: len(code)] = torch.frombuffer(bytearray(code), dtype=torch.uint8) if code else row[:0]
    return codes


def as_texts(coded: Tensor) -> list[str]:
    """Decode the output of `as_tensor`."""
    return [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in coded]


def vocabulary() -> list[str]:
    """The words of all descriptions, in alphabetical order."""
    from fedloom.data.digits import WORDINGS

    phrases = (p for wording in WORDINGS for variants in wording.values() for p in variants)
    return sorted({word for phrase in phrases for word in re.findall(r"\w+", phrase)})
