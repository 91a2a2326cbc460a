"""Labelled pictures before they are distributed to clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.media import Media
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.partition.rows import Value


class Decoded(Sequence[Any]):
    """Pictures in files, decoded on every access, so that a large data set needs no memory."""

    def __init__(self, media: Sequence[Media]) -> None:
        self.media = media

    def __len__(self) -> int:
        return len(self.media)

    def __getitem__(self, place: Any) -> Any:
        return Decoded(self.media[place]) if isinstance(place, slice) else self.media[place].decode()


@dataclass(frozen=True)
class Pool:
    """Pictures, uint8 (3, H, W) each, their labels and class names, and their texts if the data set has texts."""

    pictures: Sequence[Tensor]
    labels: Sequence[int]
    names: tuple[str, ...]
    texts: Sequence[str] | None = None
    picture_of: Sequence[int] | None = None
    """A number for each picture's content, if pictures repeat with other texts; None if all differ."""
    skipped: Sequence[str] = ()
    """One sentence per picture that was left out because its file cannot be used."""
    columns: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    """Further fields of the data set for every picture."""

    def inputs(self, place: int) -> Mapping[str, Tensor]:
        """The modalities of a picture's sample; one in a file is not read yet."""
        if isinstance(self.pictures, Decoded):
            return MediaFiles({"image": self.pictures.media[place]}, unreadable)
        return {"image": self.pictures[place]}


def unreadable(media: Media, fault: str) -> ExperimentError:
    """The refusal of a picture's file."""
    return ExperimentError(f"data.path: {media.source} is no readable picture: {fault}")
