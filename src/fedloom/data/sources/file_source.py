"""Sources that read pictures and sounds from files: the check of every file, and what happens to one that cannot be used."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import Field, model_validator
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.media import DEFAULT, Media, MediaSettings, check_all, count_windows, reason
from fedloom.data.sample import Sample
from fedloom.data.sources.source import Features, Source

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class FileRules:
    """The reading of media files, and the share of samples that may be skipped because their file cannot be used."""

    media: MediaSettings = DEFAULT
    skip_bad: bool = False
    max_skipped: float = 0.1


STRICT = FileRules()
"""A file that cannot be used is refused."""


class FileSource(Source):
    """Base of the sources that read pictures or sounds from files."""

    skip_bad: bool = Field(
        False, description="leave out samples whose file cannot be used, instead of refusing the data"
    )
    max_skipped: float = Field(0.1, gt=0, lt=1, description="share of samples that skip_bad may leave out")
    media: MediaSettings = Field(DEFAULT, description="bounds on pictures and sounds, and how they are read")

    @property
    def reads_media(self) -> bool:
        """Whether samples come from files, so that the settings of files are read."""
        return self.has_own_files

    @property
    def rules(self) -> FileRules:
        """The settings of files."""
        return FileRules(self.media, self.skip_bad, self.max_skipped)

    def load(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """The clients of `deal`, long recordings cut into windows if asked; all windows of one come into one part."""
        clients = super().load(seed, features)
        if self.media.window is None:
            return clients
        return [replace(c, train=_windows(c.train), test=_windows(c.test)) for c in clients]

    @model_validator(mode="after")
    def _settings_are_read(self) -> "FileSource":
        for name in ("skip_bad", "max_skipped", "media"):
            changed = getattr(self, name) != FileSource.model_fields[name].default
            if changed and not self.reads_media:
                raise ValueError(
                    f"{name} is about media files, and the source {self.source_name()} generates its samples here; "
                    "leave it out, or name files in data.path"
                )
            if changed and name == "max_skipped" and not self.skip_bad:
                raise ValueError(
                    "max_skipped is read with data.skip_bad: true alone; leave it out, or set that"
                )
        return self


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

    def __contains__(self, modality: object) -> bool:
        return modality in self.media

    def __iter__(self) -> Iterator[str]:
        return iter(self.media)

    def __len__(self) -> int:
        return len(self.media)

    def __repr__(self) -> str:
        return f"MediaFiles({self.media})"


def _windows(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples, those with recordings that are too long as one sample for each window, with the same texts."""
    return tuple(cut for sample in samples for cut in _cut(sample))


def _cut(sample: Sample) -> list[Sample]:
    files = sample.modalities
    if not isinstance(files, MediaFiles):
        return [sample]
    counts = {name: files.windows(name) for name in files}
    count = max(counts.values(), default=1)
    if count == 1:
        return [sample]
    cut = []
    for k in range(count):
        media = {n: replace(m, part=(k, count)) if counts[n] > 1 else m for n, m in files.media.items()}
        uid = f"{sample.uid}, window {k + 1} of {count}"
        cut.append(replace(sample, uid=uid, modalities=MediaFiles(media, files.error)))
    return cut


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
