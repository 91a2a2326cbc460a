"""Lengths and checksums inside containers: MP4, MOV and HEIF boxes, Matroska and WebM elements, ADTS frames, AVI chunks,
GIF blocks.

Every function takes a file's whole content and raises ValueError with the fault.
"""

import zlib
from collections.abc import Iterator

from fedloom.data.media.structure import ENDS_EARLY

PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
"""Boxes that hold boxes and nothing else."""
SEGMENT, CRC32 = 0x18538067, 0xBF
ADTS_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
ADTS_SAMPLES = 1024
"""Samples of a raw block of AAC."""
NO_BOX = "it is damaged at byte {} (no box of a known size begins there)"


def check_mp4(data: bytes, start: int = 0, end: int | None = None) -> None:
    """Every box ends where its parent says, and the last one where the file ends."""
    at, end = start, len(data) if end is None else end
    while at < end:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        name = data[at + 4 : at + 8]
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0 and end == len(data):
            size = end - at
        if size < head or at + 8 > end:
            raise ValueError(NO_BOX.format(at))
        if at + size > end:
            raise ValueError(ENDS_EARLY if end == len(data) else NO_BOX.format(at))
        if name in PARENTS:
            check_mp4(data, at + head, at + size)
        at += size


def check_matroska(data: bytes) -> None:
    """The elements' sizes, and the CRC-32 of every part that carries one; a live recording states no sizes."""
    for name, start, end in _elements(data, 0, len(data)):
        if end > len(data):
            raise ValueError(ENDS_EARLY)
        if name != SEGMENT:
            continue
        for _, inner, inner_end in _elements(data, start, end):
            if inner_end > end:
                raise ValueError(ENDS_EARLY)
            if data[inner] == CRC32 and data[inner + 1 : inner + 2] == b"\x84":
                stated = int.from_bytes(data[inner + 2 : inner + 6], "little")
                if zlib.crc32(data[inner + 6 : inner_end]) != stated:
                    raise ValueError(f"it is damaged after byte {inner} (wrong checksum)")


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(name, start of the content, its end) of the elements up to `end`; ends at one without a size."""
    while at < end:
        name, at = _number(data, at, keep=True)
        size, at = _number(data, at, keep=False)
        if size < 0:
            return
        yield name, at, at + size
        at += size


def _number(data: bytes, at: int, *, keep: bool) -> tuple[int, int]:
    """A number of variable length, with its length mark if `keep`, and the place after it; -1 for an unknown size."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    if not first or at + length > len(data):
        raise ValueError(f"it is damaged at byte {at} (no element begins there)")
    value = int.from_bytes(data[at : at + length], "big")
    if keep:
        return value, at + length
    value &= (1 << 7 * length) - 1
    return (-1 if value == (1 << 7 * length) - 1 else value), at + length


def check_avi(data: bytes) -> None:
    """Every chunk of the outermost level ends within the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            raise ValueError(ENDS_EARLY)
        at += 8 + size + size % 2


def check_gif(data: bytes) -> None:
    """Block follows block up to the trailer; GIF has no checksum."""
    at = 13 + _palette(data[10:11])
    while data[at : at + 1] != b";":
        if data[at : at + 1] == b"!":
            at += 2
        elif data[at : at + 1] == b",":
            at += 11 + _palette(data[at + 9 : at + 10])
        else:
            raise ValueError(
                f"it is damaged at byte {at} (no block begins there)" if at < len(data) else ENDS_EARLY
            )
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1


def _palette(flags: bytes) -> int:
    """Bytes of the table of colours that these flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def is_adts(begin: bytes) -> bool:
    """Whether a frame of AAC in ADTS begins here; MPEG's other layers have another mark."""
    return len(begin) > 1 and begin[0] == 0xFF and begin[1] & 0xF6 == 0xF0


def adts_seconds(data: bytes, start: int = 0) -> float:
    """The length of the sound of a chain of ADTS frames. Raises ValueError unless frame follows frame to the end."""
    at, blocks, rate = start, 0, 0
    while at < len(data) and data[at : at + 3] != b"TAG":
        head = data[at : at + 7]
        if not is_adts(head) or len(head) < 7:
            raise ValueError(f"it is damaged at byte {at} (no frame begins there)")
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        number = head[2] >> 2 & 15
        if length < 7 or number >= len(ADTS_RATES) or rate not in (0, ADTS_RATES[number]):
            raise ValueError(f"it is damaged at byte {at} (no frame begins there)")
        if at + length > len(data):
            raise ValueError("it ends within a frame")
        at, blocks, rate = at + length, blocks + 1 + (head[6] & 3), ADTS_RATES[number]
    if not blocks:
        raise ValueError("it holds no sound")
    return blocks * ADTS_SAMPLES / rate
