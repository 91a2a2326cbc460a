"""The kinds of media files by modality: file suffixes, checks before a run, and decoding to raw tensors."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedloom.data.media import jpeg, mp3, picture, sound, structure
from fedloom.data.media.settings import DEFAULT, MediaSettings

Source = Path | bytes
"""A media file, or its content."""


@dataclass(frozen=True)
class Kind:
    """File suffixes, opener and decoder of one modality; both raise many types for an unusable file.

    `open` reads the header and applies the bounds; `decode` opens, then returns the raw tensor and a note on how it was read.
    """

    suffixes: tuple[str, ...]
    open: Callable[[Source, MediaSettings], AbstractContextManager[Any]]
    decode: Callable[[Source, MediaSettings], tuple[Tensor, str | None]]


def _picture(modality: str) -> Callable[[Source, MediaSettings], AbstractContextManager[Any]]:
    return lambda source, settings: picture.open_picture(source, modality, settings)


KINDS: dict[str, Kind] = {
    "image": Kind(
        (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
        _picture("image"),
        picture.decode_image,
    ),
    "audio": Kind((".wav", ".flac", ".ogg", ".mp3"), sound.open_sound, sound.decode_audio),
    "depth": Kind((".png",), _picture("depth"), picture.decode_depth),
    "thermal": Kind((".png",), _picture("thermal"), picture.decode_thermal),
}


def decode_media(modality: str, source: Source, settings: MediaSettings = DEFAULT) -> Tensor:
    """The raw tensor of a file, in the shape, type and unit that `Sample` states for the modality."""
    return KINDS[modality].decode(source, settings)[0]


def check_media(
    modality: str, source: Source, settings: MediaSettings = DEFAULT, *, quick: bool = False
) -> tuple[str, ...]:
    """Notes on a complete, usable file. Raises ValueError, or what the decoder raises, for any other.

    Decodes it whole as `decode_media` does, and compares the lengths and checksums that its format has. `quick`: its name,
    size and header alone.
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
    content = source.read_bytes() if isinstance(source, Path) else source
    with kind.open(source, settings):  # bounds first: the checks below read everything
        pass
    _check_structure(content)
    _, note = kind.decode(content, settings)
    return () if note is None else (note,)


def _check_structure(content: bytes) -> None:
    """Raise ValueError for damage that the format itself shows; the first bytes tell the format."""
    begin = content[(start := mp3.after_tags(content)) : start + 12]
    if begin[:4] == b"\x89PNG":
        structure.check_png(content)
    elif begin[:2] == b"\xff\xd8":
        jpeg.check_jpeg(content)
    elif begin[:4] in (b"RIFF", b"RIFX") and begin[8:] == b"WAVE":
        structure.check_wav(content)
    elif begin[:4] == b"fLaC":
        structure.check_flac(content[start:])
    elif begin[:4] == b"OggS":
        structure.check_ogg(content)
    elif start or re.match(rb"\x00*\xff[\xe0-\xff]", begin):
        mp3.check_mp3(content)
