"""Image classification data before partitioning: ordered class names, and lazily read pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.media import Media
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample


@dataclass(frozen=True)
class Picture:
    """One labelled picture, read on demand."""

    uid: str
    label: int
    read: Callable[[], Tensor]
    """uint8 (3, H, W)."""
    domain: str | None = None
    media: Media | None = None
    """The file; None for a generated picture."""

    @classmethod
    def of(cls, uid: str, label: int, media: Media, domain: str | None = None) -> "Picture":
        """The picture in a file."""
        return cls(uid, label, media.decode, domain, media)


@dataclass(frozen=True)
class Pictures:
    """A data set: `names[label]` is a class's name, `coarse[label]` its coarse class (empty if there are none)."""

    names: tuple[str, ...]
    train: tuple[Picture, ...]
    test: tuple[Picture, ...]
    domains: tuple[str, ...] = ()
    coarse: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if twice := [n for i, n in enumerate(self.names) if n in self.names[:i]]:
            raise ExperimentError(
                f"data: two classes are called {twice[0]!r}; no model could tell them apart, so give each a name of its own"
            )


class Shown(Mapping[str, Tensor]):
    """The modalities of a generated picture's sample: `image`, made on every access, so that a large data set needs no memory."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def __getitem__(self, modality: str) -> Tensor:
        if modality != "image":
            raise KeyError(modality)
        try:
            return self._picture.read()
        except ExperimentError:
            raise
        except Exception as error:  # decoders raise a dozen types on broken files
            raise ExperimentError(f"data: the picture {self._picture.uid} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(("image",))

    def __len__(self) -> int:
        return 1

    def __contains__(self, modality: object) -> bool:
        return modality == "image"


def sample(picture: Picture, names: Sequence[str], classes: str, label: int, **meta: Any) -> Sample:
    """The picture as a sample; its class is number `label` in the list `classes` ("base" or "novel")."""
    fields = {"classes": classes, "label": label, "domain": picture.domain, **meta}
    return Sample(picture.uid, _modalities(picture), "", names[picture.label], fields)


def _modalities(picture: Picture) -> Mapping[str, Tensor]:
    if picture.media is None:
        return Shown(picture)
    return MediaFiles(
        {"image": picture.media},
        lambda _, fault: ExperimentError(f"data: the picture {picture.uid} cannot be read: {fault}"),
    )


def rgb(picture: Any) -> Tensor:
    """uint8 (3, H, W) of a Pillow image of any mode."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def enlarged(pixels: np.ndarray[Any, Any], side: int) -> Tensor:
    """uint8 (3, side, side) of grey uint8 (h, w), bicubic."""
    return rgb(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def held_back(
    pictures: Sequence[Picture], share: float, seed: int
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """(train, test): a seeded share of every class and domain is held back, rounded, at least one picture of two or more."""
    rng = numpy_stream(seed, "pictures", "held back")
    groups: dict[tuple[str, int], list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault((picture.domain or "", picture.label), []).append(place)
    test: set[int] = set()
    for group in sorted(groups):
        places = groups[group]
        count = min(max(round(share * len(places)), 1), len(places) - 1)
        test.update(rng.permutation(places)[:count].tolist())
    return (
        tuple(p for i, p in enumerate(pictures) if i not in test),
        tuple(p for i, p in enumerate(pictures) if i in test),
    )
