"""Damage inside a JPEG. Its pixels carry no checksum, and libjpeg hides faults, so that its own decoder has to show them.

The compressed data of a scan must be used up exactly when the picture is complete. Foreign bytes behind them may not change the
picture, or it ended too early; foreign bytes in place of their end must change it, or there were too many. What a hole leaves
behind is almost never of the right length.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

FOREIGN = bytes((i * i * 37 + i * 101 + 90) % 255 for i in range(96))
"""Arbitrary bytes without 0xFF, which would begin a marker."""
TAIL = 16
"""Bytes of a scan that are replaced; encoders may leave fewer than these unused."""
MARKER = re.compile(rb"\xff+([^\x00\xff])")
HUFFMAN = (0xC0, 0xC1, 0xC2)
"""Frames whose compressed data end at a certain bit; arithmetic coding may go on for ever."""


@dataclass(frozen=True)
class Part:
    """Compressed data from byte `start` to `end`; `last` in their scan, or followed by a restart marker."""

    start: int
    end: int
    last: bool


def check_jpeg(data: bytes) -> None:
    """Raise ValueError unless the markers are in order and the compressed data fit the picture exactly."""
    frame, parts = _read(data)
    if frame not in HUFFMAN:
        return
    pixels = _decoded(data, [])
    if pixels is None:
        raise ValueError("it cannot be decoded")
    spliced = [(part.end, part.end) for part in parts]
    if _decoded(data, spliced) != pixels:
        raise ValueError("its compressed data end before the picture is complete")
    for part in parts:
        cut = (part.end - TAIL, part.end)
        if part.last and part.end - part.start > 2 * TAIL and _decoded(data, [cut]) == pixels:
            raise ValueError("its compressed data go on after the picture is complete")


def _decoded(data: bytes, places: list[tuple[int, int]]) -> bytes | None:
    """The pixels with foreign bytes in these places; None if the decoder fails."""
    pieces, at = [], 0
    for start, end in places:
        pieces += [data[at:start], FOREIGN]
        at = end
    try:
        with Image.open(io.BytesIO(b"".join([*pieces, data[at:]])), formats=("JPEG",)) as picture:
            pixels: bytes = picture.tobytes()
            return pixels
    except OSError:
        return None


def _read(data: bytes) -> tuple[int, list[Part]]:
    """The frame's marker, and the parts of compressed data. Raises ValueError for markers out of order."""
    frame, interval, at = 0, 0, 2
    parts: list[Part] = []
    while True:
        begun = MARKER.match(data, at)
        if begun is None:
            raise ValueError("it is cut short" if at >= len(data) - 1 else f"it is damaged at byte {at}")
        code, at = begun[1][0], begun.end()
        if code == 0xD9:
            return frame, parts
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError(f"it is damaged at byte {at}")
        at += length
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            frame = code
        elif code == 0xDB:
            _check_tables(body)
        elif code == 0xDD:
            interval = int.from_bytes(body[:2], "big")
        elif code == 0xDA:
            found = list(_parts(data, at, interval))
            parts += found
            at = found[-1].end


def _parts(data: bytes, start: int, interval: int) -> Iterator[Part]:
    """The compressed data of one scan, split at its restart markers."""
    restarts = 0
    for marker in MARKER.finditer(data, start):
        code = marker[1][0]
        restart = 0xD0 <= code <= 0xD7
        yield Part(start, marker.start(), last=not restart)
        if not restart:
            return
        if not interval or code != 0xD0 + restarts % 8:
            raise ValueError(f"it is damaged before byte {marker.start()} (a restart marker out of order)")
        start, restarts = marker.end(), restarts + 1
    raise ValueError("it is cut short")


def _check_tables(body: bytes) -> None:
    """Raise ValueError for a quantisation table with a zero, which no encoder writes."""
    at = 0
    while at < len(body):
        wide = body[at] >> 4
        table = body[at + 1 : at + 1 + (128 if wide else 64)]
        steps = [table[i] << 8 | table[i + 1] for i in range(0, len(table) - 1, 2)] if wide else list(table)
        if len(steps) != 64 or 0 in steps:
            raise ValueError("its quantisation table is damaged")
        at += 1 + len(table)
