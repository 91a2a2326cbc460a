"""The settings of reading media files: bounds on what is decoded, and the depth of grey pictures."""

from pydantic import BaseModel, ConfigDict, Field

PILLOWS_BOUND = 178_956_970
"""Pixels of a picture that Pillow itself refuses to open."""


class MediaSettings(BaseModel):
    """Bounds on pictures and sounds; a file beyond one is refused before it is decoded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    megabytes: float = Field(1000, gt=0, description="largest media file in 10^6 bytes")
    pixels: int = Field(
        80_000_000, ge=1, le=PILLOWS_BOUND, description="largest picture, as width times height"
    )
    aspect: float = Field(100, ge=1, description="longest picture, as its longer side over its shorter side")
    seconds: float = Field(600, gt=0, description="longest sound in seconds")
    lowest_rate: int = Field(1_000, ge=1, description="lowest sample rate of a sound in Hz")
    highest_rate: int = Field(384_000, ge=1, description="highest sample rate of a sound in Hz")
    grey_bits: int | None = Field(
        None,
        ge=8,
        le=16,
        description="bits of grey in 16-bit files, such as 12; none = as the file states, else as its own range needs",
    )


DEFAULT = MediaSettings()
