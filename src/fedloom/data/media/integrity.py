"""Damage that a format itself can show; the first bytes tell the format."""

import re

from fedloom.data.media import boxes, jpeg, mp3, structure

MATROSKA = b"\x1a\x45\xdf\xa3"


def check_structure(content: bytes) -> None:
    """Raise ValueError for damage that the format itself shows."""
    begin = content[(start := mp3.after_tags(content)) : start + 12]
    if begin[:4] == b"\x89PNG":
        structure.check_png(content)
    elif begin[:2] == b"\xff\xd8":
        jpeg.check_jpeg(content)
    elif begin[:4] in (b"RIFF", b"RIFX") and begin[8:] == b"WAVE":
        structure.check_wav(content)
    elif begin[:4] == b"RIFF" and begin[8:] == b"AVI ":
        boxes.check_avi(content)
    elif begin[:4] == b"GIF8":
        boxes.check_gif(content)
    elif begin[:4] == b"fLaC":
        structure.check_flac(content[start:])
    elif begin[:4] == b"OggS":
        structure.check_ogg(content)
    elif begin[4:8] == b"ftyp":
        boxes.check_mp4(content)
    elif begin[:4] == MATROSKA:
        boxes.check_matroska(content)
    elif boxes.is_adts(begin):
        boxes.adts_seconds(content, start)
    elif start or re.match(rb"\x00*\xff[\xe0-\xff]", begin):
        mp3.check_mp3(content)
