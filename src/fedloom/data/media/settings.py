"""The settings of reading media files: bounds on what is decoded, and how grey, recordings and videos are read."""

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field

PILLOWS_BOUND = 178_956_970
"""Pixels of a picture that Pillow itself refuses to open."""


class MediaSettings(BaseModel):
    """Bounds on media files, and how they are read; a file beyond a bound is refused before it is decoded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    megabytes: float = Field(1000, gt=0, description="largest media file in 10^6 bytes")
    pixels: int = Field(
        80_000_000, ge=1, le=PILLOWS_BOUND, description="largest picture, as width times height"
    )
    aspect: float = Field(100, ge=1, description="longest picture, as its longer side over its shorter side")
    seconds: float = Field(600, gt=0, description="longest sound, video or motion trace in seconds")
    window: float | None = Field(
        None,
        gt=0,
        description="cut recordings into equal windows of at most this many seconds, a sample for each; none = whole",
    )
    frames: int = Field(8, ge=1, le=256, description="frames of a video, evenly spread over it")
    imu_rate: float | None = Field(
        None, ge=1, le=10_000, description="samples per second of motion traces that hold no times"
    )
    lowest_rate: int = Field(1_000, ge=1, description="lowest sample rate of a sound in Hz")
    highest_rate: int = Field(384_000, ge=1, description="highest sample rate of a sound in Hz")
    grey_bits: int | None = Field(
        None,
        ge=8,
        le=16,
        description="bits of grey in 16-bit files, such as 12; none = as the file states, else as its own range needs",
    )

    def check_seconds(self, seconds: float) -> None:
        """Raise ValueError for a recording that is too long to be read whole."""
        if self.window is None and seconds > self.seconds:
            raise ValueError(
                f"it lasts {seconds:.0f} seconds, and data.media.seconds allows {self.seconds:g}; data.media.window cuts "
                "recordings into windows"
            )

    def check_size(self, width: int, height: int) -> None:
        """Raise ValueError for a picture or video with too many pixels, or too long a side."""
        if width * height > self.pixels:
            raise ValueError(f"it has {width} x {height} pixels, and data.media.pixels allows {self.pixels}")
        if max(width, height) > self.aspect * min(width, height):
            raise ValueError(
                f"it has {width} x {height} pixels, and data.media.aspect allows a ratio of {self.aspect:g}"
            )


DEFAULT = MediaSettings()
RECORDINGS = ("audio", "video", "imu")
READERS = {
    "pixels": ("image", "video", "depth", "thermal"),
    "aspect": ("image", "video", "depth", "thermal"),
    "seconds": RECORDINGS,
    "window": RECORDINGS,
    "frames": ("video",),
    "imu_rate": ("imu",),
    "lowest_rate": ("audio",),
    "highest_rate": ("audio",),
    "grey_bits": ("image",),
}
"""Modalities whose files read a setting; those of any other modality do not."""


def unread_of(settings: MediaSettings, held: Collection[str]) -> str | None:
    """A sentence on the first setting, other than its default, that files of the modalities `held` do not read, or None."""
    for name, readers in READERS.items():
        if getattr(settings, name) != getattr(DEFAULT, name) and not set(readers) & set(held):
            return (
                f"media.{name} is read only from {' or '.join(readers)} files, and the samples hold "
                f"{', '.join(held) or 'text alone'}; leave it out"
            )
    return None
