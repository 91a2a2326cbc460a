"""Base of the sources that read pictures and sounds from files, with the settings of their check."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.media import DEFAULT, MediaSettings
from fedloom.data.media.sample_files import STRICT, FileRules, MediaFiles, check_samples
from fedloom.data.media.settings import unread_of
from fedloom.data.media.windows import by_window
from fedloom.data.sample import modalities_of
from fedloom.data.sources.source import Features, Source

__all__ = ["STRICT", "FileRules", "FileSource", "MediaFiles", "check_samples"]


class FileSource(Source):
    """Base of the sources that read pictures or sounds from files."""

    holds: ClassVar[tuple[str, ...] | None] = None
    """Modalities of the files that this source reads; None where the data decide it."""

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
    def samples_in_files(self) -> bool:
        """See Source: wherever the settings of files are read."""
        return self.reads_media

    @property
    def rules(self) -> FileRules:
        """The settings of files."""
        return FileRules(self.media, self.skip_bad, self.max_skipped)

    def load(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """The clients of `deal`, long recordings cut into windows if asked; all windows of one come into one part."""
        clients = super().load(seed, features)
        if self.media.window is None:
            return clients
        return [replace(c, train=by_window(c.train), test=by_window(c.test)) for c in clients]

    def check_read(self, clients: Sequence[ClientData]) -> None:
        """Also for a setting of `media` that no file of these clients reads."""
        if self.media != DEFAULT and self.holds is None:
            held = modalities_of(m for client in clients for m in client.holds)
            if fault := unread_of(self.media, held):
                raise ExperimentError(f"data.{fault}")

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
        if self.holds is not None and (fault := unread_of(self.media, self.holds)):
            raise ValueError(fault)
        return self
