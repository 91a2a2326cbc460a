"""The kinds of media files by modality: file suffixes, checks before a run, and decoding to raw tensors."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedloom.data.media import dicom, motion, picture, sound, video
from fedloom.data.media.integrity import check_structure
from fedloom.data.media.parts import WHOLE, Part, windows
from fedloom.data.media.settings import DEFAULT, MediaSettings
from fedloom.data.media.sources import Decoded, Source


@dataclass(frozen=True)
class Kind:
    """File suffixes, opener and decoder of one modality; both raise many types for an unusable file.

    `open` reads the header and applies the bounds; `decode` opens, then returns the raw tensor of a part and notes on how it was
    read. `seconds` gives the length of an opened recording; None where files have no length.
    """

    suffixes: tuple[str, ...]
    open: Callable[[Source, MediaSettings], AbstractContextManager[Any]]
    decode: Callable[[Source, MediaSettings, Part], Decoded]
    seconds: Callable[[Any], float] | None = None


def _open_image(source: Source, settings: MediaSettings) -> AbstractContextManager[Any]:
    if dicom.is_dicom(source):
        return dicom.open_dicom(source, settings)
    return picture.open_picture(source, "image", settings)


def _decode_image(source: Source, settings: MediaSettings, part: Part) -> Decoded:
    decode = dicom.decode_dicom if dicom.is_dicom(source) else picture.decode_image
    return decode(source, settings)


def _map_of(modality: str, decode: Callable[[Source, MediaSettings], Decoded]) -> Kind:
    """A kind of grey PNG."""
    return Kind(
        (".png",),
        lambda source, settings: picture.open_picture(source, modality, settings),
        lambda source, settings, part: decode(source, settings),
    )


PICTURES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif", ".avif", ".dcm", ".dicom"),
)
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm")
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")

KINDS: dict[str, Kind] = {
    "image": Kind(PICTURES, _open_image, _decode_image),
    "video": Kind(VIDEOS, video.open_video, video.decode_video, video.seconds),
    "audio": Kind(SOUNDS, sound.open_sound, sound.decode_audio, sound.seconds),
    "depth": _map_of("depth", picture.decode_depth),
    "thermal": _map_of("thermal", picture.decode_thermal),
    "imu": Kind((".csv", ".npy"), motion.open_motion, motion.decode_motion, motion.seconds),
}


def modality_of_name(name: str) -> str:
    """The modality of a file whose name alone tells it; a picture for an unknown suffix, a video before its sound."""
    suffix = Path(name).suffix.lower()
    return next((m for m in ("image", "video", "audio", "imu") if suffix in KINDS[m].suffixes), "image")


def decode_media(
    modality: str, source: Source, settings: MediaSettings = DEFAULT, part: Part = WHOLE
) -> Tensor:
    """The raw tensor of a file, or of a part of it, in the shape, type and unit that `Sample` states for the modality."""
    return KINDS[modality].decode(source, settings, part)[0]


def count_windows(modality: str, source: Source, settings: MediaSettings) -> int:
    """The windows into which `settings.window` cuts a file; 1 for a whole one."""
    kind = KINDS[modality]
    if settings.window is None or kind.seconds is None:
        return 1
    with kind.open(source, settings) as opened:
        return windows(kind.seconds(opened), settings.window)


def media_seconds(modality: str, source: Source, settings: MediaSettings = DEFAULT) -> float:
    """The length of a file in seconds, as it states it; 0 for none."""
    kind = KINDS[modality]
    if kind.seconds is None:
        return 0.0
    with kind.open(source, settings) as opened:
        return kind.seconds(opened)


def check_media(
    modality: str, source: Source, settings: MediaSettings = DEFAULT, *, quick: bool = False
) -> tuple[str, ...]:
    """Notes on a complete, usable file. Raises ValueError, or what the decoder raises, for any other.

    Decodes it whole as `decode_media` does, window by window, and compares the lengths and checksums that its format has.
    `quick`: its name, size and header alone.
    """
    kind = KINDS[modality]
    if isinstance(source, Path):
        if source.suffix.lower() not in kind.suffixes:
            raise ValueError(f"its name should end in one of {', '.join(kind.suffixes)}")
        size = source.stat().st_size
    else:
        size = len(source)
    if size == 0:
        raise ValueError("it is empty")
    if size > settings.megabytes * 10**6:
        raise ValueError(
            f"it has {size / 10**6:.0f} MB, and data.media.megabytes allows {settings.megabytes:g}"
        )
    if quick:
        with kind.open(source, settings):
            return ()
    with kind.open(source, settings):  # bounds first: the checks below read everything
        pass
    content = source.read_bytes() if isinstance(source, Path) else source
    check_structure(content)
    count = count_windows(modality, source, settings)
    notes = [note for k in range(count) for note in kind.decode(content, settings, (k, count))[1]]
    return tuple(dict.fromkeys(notes))
