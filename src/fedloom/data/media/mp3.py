"""Damage inside an MP3: the chain of its frames, and the checksum that LAME and most other encoders leave in the first one."""

import numpy as np
from numpy.typing import NDArray

BITRATES = {  # kbit/s by (MPEG 1?, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Sample rates in Hz by the header's version bits: MPEG 1, 2 and 2.5."""
DAMAGED = "it is damaged at byte {} (no frame begins there)"


def check_mp3(data: bytes) -> None:
    """Raise ValueError unless frame follows frame to the end, as many as the first states, with the checksum it states."""
    start, end = after_tags(data), _before_tags(data)
    while start < end and data[start] == 0:  # padding that some taggers leave
        start += 1
    at, frames, kind = start, 0, data[start + 1 : start + 2]
    while at < end:
        length = _frame_length(data[at : at + 4])
        if not length or data[at + 1] & 0xFE != kind[0] & 0xFE:
            if not any(data[at:end]) and frames:
                break
            raise ValueError(DAMAGED.format(at))
        if at + length > end:
            raise ValueError("it ends within a frame")
        at, frames = at + length, frames + 1
    if not frames:
        raise ValueError("it holds no sound")
    _check_first(data[start:at], frames)


def _frame_length(head: bytes) -> int:
    """Bytes of the frame with this header; 0 for none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or not 0 < bitrate < 15 or rate == 3:
        return 0
    bits, hertz = BITRATES[version == 3, layer][bitrate - 1] * 1000, RATES[version][rate]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding


def _check_first(music: bytes, frames: int) -> None:
    """Compare the first frame's count and checksum, if it is one of information."""
    length = _frame_length(music[:4])
    mono, first = music[3] >> 6 == 3, music[1] >> 3 & 3 == 3
    at = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    if music[at : at + 4] not in (b"Xing", b"Info"):
        return
    flags, at = music[at + 7], at + 8
    if flags & 1:
        stated = int.from_bytes(music[at : at + 4], "big")
        if abs(stated - (frames - 1)) > 1:
            raise ValueError(f"it holds {frames - 1} frames, and its header says {stated}")
    at += 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    tag = music[at : at + 36]
    known = at + 36 <= length and crc16(music[: at + 34]) == int.from_bytes(tag[34:36], "big")
    if not known or int.from_bytes(tag[28:32], "big") != len(music):
        return  # another encoder's tag, or one whose music was cut or joined since
    if crc16(music[length:]) != int.from_bytes(tag[32:34], "big"):
        raise ValueError("its sound is damaged (wrong checksum)")


def after_tags(data: bytes) -> int:
    """Where ID3v2 tags end."""
    at = 0
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = sum(
            (byte & 0x7F) << shift for byte, shift in zip(data[at + 6 : at + 10], (21, 14, 7, 0), strict=True)
        )
        at += 10 + size + 10 * bool(data[at + 5] & 0x10)
    return at


def _before_tags(data: bytes) -> int:
    """Where ID3v1 and APE tags begin, or the file ends."""
    end = len(data)
    if data[max(end - 128, 0) :][:3] == b"TAG":
        end -= 128
    if data[max(end - 32, 0) : end][:8] == b"APETAGEX":
        footer = data[end - 32 : end]
        end -= int.from_bytes(footer[12:16], "little") + 32 * bool(footer[23] & 0x80)
    return max(end, 0)


def _table() -> NDArray[np.uint16]:
    table = np.arange(256, dtype=np.uint16)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0xA001, table >> 1).astype(np.uint16)
    return table


TABLE = _table()


def crc16(data: bytes, columns: int = 1024) -> int:
    """CRC-16 (polynomial 0x8005, lowest bit first, from 0) of `columns` equal pieces at once, then of the whole."""
    length = -(-len(data) // columns)
    padded = data.rjust(columns * length, b"\0")  # zeros in front change nothing
    pieces = np.frombuffer(padded, np.uint8).reshape(columns, length)
    state = np.concatenate([np.zeros(columns), 1 << np.arange(16)]).astype(np.uint16)
    for byte in np.concatenate([pieces, np.zeros((16, length), np.uint8)]).T:
        state = TABLE[(state ^ byte) & 255] ^ state >> 8
    shift = state[columns:].tolist()  # each bit after as many zeros as a piece is long
    total = 0
    for piece in state[:columns].tolist():
        moved = 0
        for bit in range(16):
            moved ^= shift[bit] * (total >> bit & 1)
        total = moved ^ piece
    return total
