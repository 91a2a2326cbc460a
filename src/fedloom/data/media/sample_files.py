"""Media of samples: decoded where they are read, checked before a run, and skipped where the settings allow it."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.media.check import Media, check_all, reason
from fedloom.data.media.kinds import count_windows, media_seconds
from fedloom.data.media.parts import Part
from fedloom.data.media.settings import DEFAULT, MediaSettings

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class FileRules:
    """The reading of media files, and the share of samples that may be skipped because their file cannot be used."""

    media: MediaSettings = DEFAULT
    skip_bad: bool = False
    max_skipped: float = 0.1


STRICT = FileRules()
"""A file that cannot be used is refused."""


class MediaFiles(Mapping[str, Tensor]):
    """A sample's media by modality; reading a key decodes its file anew, so that large clients need no memory.

    Listing, counting and `in` read no file. `error` makes the exception for a file that no longer decodes.
    """

    def __init__(self, media: Mapping[str, Media], error: Callable[[Media, str], ExperimentError]) -> None:
        self.media, self.error = dict(media), error

    @property
    def files(self) -> Mapping[str, Path]:
        """The files by modality; media inside other files are left out."""
        return {name: m.source for name, m in self.media.items() if isinstance(m.source, Path)}

    def __getitem__(self, modality: str) -> Tensor:
        media = self.media[modality]
        try:
            return media.decode()
        except Exception as error:  # decoders raise many types on broken files
            raise self.error(media, reason(error)) from error

    def windows(self, modality: str) -> int:
        """The windows into which the settings cut this file."""
        media = self.media[modality]
        try:
            return count_windows(media.modality, media.content(), media.settings)
        except Exception as error:
            raise self.error(media, reason(error)) from error

    def seconds(self, modality: str) -> float:
        """The length of a recording, or of its window, as its file states it; 0 for none."""
        media = self.media[modality]
        try:
            return media_seconds(media.modality, media.content(), media.settings) / media.part[1]
        except Exception as error:
            raise self.error(media, reason(error)) from error

    def identity(self) -> tuple[tuple[str, bytes, Part], ...] | None:
        """Keys of the media with all that decides their tensors; None where one was changed just now, or cannot be read."""
        try:
            keys = {name: media.key() for name, media in self.media.items()}
        except Exception:  # reading it says what is wrong
            return None
        found = [(name, key, self.media[name].part) for name, key in keys.items() if key is not None]
        return tuple(found) if len(found) == len(keys) else None

    def portable(self) -> "MediaFiles":
        """The same media for another process: files by their place, those inside other files by their content."""
        return MediaFiles({name: media.portable() for name, media in self.media.items()}, _unusable)

    def __contains__(self, modality: object) -> bool:
        return modality in self.media

    def __iter__(self) -> Iterator[str]:
        return iter(self.media)

    def __len__(self) -> int:
        return len(self.media)

    def __repr__(self) -> str:
        return f"MediaFiles({self.media})"


def _unusable(media: Media, fault: str) -> ExperimentError:
    return ExperimentError(f"the {media.modality} file cannot be used ({fault})")


def check_samples(
    media_of: Mapping[K, Sequence[Media]],
    sentence: Callable[[K, Media, str], str],
    rules: FileRules,
    missing: Mapping[K, str] | None = None,
) -> dict[K, str]:
    """The samples to skip, and why; empty unless `rules` allow skipping.

    Args:
        media_of: every sample's media.
        sentence: the sentence on a sample, its unusable media and the fault.
        rules: the settings of files.
        missing: sentences on samples whose files are missing; they count as well.

    Raises:
        ExperimentError: the first fault if nothing may be skipped, or if too many samples would be.

    """
    pairs = [(key, media) for key, listed in media_of.items() for media in listed]
    bad = dict(missing or {})
    for (key, media), finding in zip(pairs, check_all([m for _, m in pairs]), strict=True):
        if finding.fault is not None and key not in bad:
            bad[key] = sentence(key, media, finding.fault)
    if not bad:
        return {}
    first, count = next(iter(bad.values())), len({*media_of, *bad})
    if not rules.skip_bad:
        raise ExperimentError(f"{first.rstrip('.')}; data.skip_bad: true leaves such samples out.")
    if len(bad) > rules.max_skipped * count:
        raise ExperimentError(
            f"{len(bad)} of {count} samples have files that cannot be used, and data.max_skipped allows a share of "
            f"{rules.max_skipped:g}; the first: {first}"
        )
    return bad
