"""Checksums and lengths inside files: PNG, WAV, FLAC and OGG carry them, so that any damage shows.

Every function takes a file's whole content and raises ValueError with the fault.
"""

import hashlib
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

ENDS_EARLY = "it ends before its header says"
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced PNG: first column, first row, column step, row step."""
UNKNOWN = 0xFFFFFFFF
"""A WAV's data size where its writer could not go back to fill it in."""
AT_A_TIME = 1 << 20


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """(name, body, stated CRC) of each chunk up to IEND. Raises ValueError where the file ends before."""
    file.seek(8)
    while True:
        head = file.read(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        body = file.read(length)
        crc = file.read(4)
        if len(head) < 8 or len(body) < length or len(crc) < 4:
            raise ValueError(ENDS_EARLY)
        yield name, body, int.from_bytes(crc, "big")
        if name == b"IEND":
            return


def check_png(data: bytes) -> None:
    """Every chunk's CRC-32; the compressed pixels' Adler-32 and length."""
    inflate, size, expected = zlib.decompressobj(), 0, 0
    for name, body, crc in png_chunks(io.BytesIO(data)):
        if zlib.crc32(body, zlib.crc32(name)) != crc:
            raise ValueError(f"its part {name.decode('latin-1')!r} is damaged (wrong checksum)")
        if name == b"IHDR":
            expected = _png_size(body)
        if name == b"IDAT":
            while body and size <= expected and not inflate.eof:
                try:
                    size += len(inflate.decompress(body, AT_A_TIME))
                except zlib.error as error:
                    raise ValueError(f"its pixels are damaged ({error})") from error
                body = inflate.unconsumed_tail
    if not inflate.eof or size != expected:
        raise ValueError(f"its pixels are damaged (not the {expected} bytes of its header)")


def _png_size(header: bytes) -> int:
    """Bytes of a PNG's pixels once inflated, with one byte more for each row of each pass."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 0)
    passes = ADAM7 if header[12] else ((0, 0, 1, 1),)
    sizes = ((-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def check_wav(data: bytes) -> None:
    """The size that the header gives the sound, against the file's."""
    order = "big" if data[:4] == b"RIFX" else "little"
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], order)  # type: ignore[arg-type]
        if data[at : at + 4] == b"data":
            if size != UNKNOWN and at + 8 + size > len(data):
                raise ValueError(ENDS_EARLY)
            return
        at += 8 + size + size % 2
    raise ValueError("it has no part with sound")


def check_flac(data: bytes) -> None:
    """The MD5 of all samples, where the encoder has left it."""
    expected = data[26:42]
    if expected == bytes(16):
        return
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            width = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}.get(sound.subtype)
            if width is None:
                return
            for block in sound.blocks(AT_A_TIME // sound.channels + 1, dtype="int32", always_2d=True):
                samples = np.ascontiguousarray(block.astype("<i4"))
                digest.update(samples.view(np.uint8).reshape(-1, 4)[:, 4 - width :].tobytes())
    except soundfile.SoundFileError as error:  # a frame's own checksum
        raise ValueError("its samples are damaged (a frame cannot be decoded)") from error
    if digest.digest() != expected:
        raise ValueError("its samples are damaged (wrong checksum)")


def check_ogg(data: bytes) -> None:
    """Every page's CRC-32, the pages' numbers, and the mark of the last page."""
    at = 0
    pages: dict[bytes, int] = {}
    ended: dict[bytes, bool] = {}
    while at < len(data):
        head = data[at : at + 27]
        if len(head) < 27 or head[:4] != b"OggS":
            raise ValueError(f"it is damaged at byte {at} (no page begins there)")
        lengths = data[at + 27 : at + 27 + head[26]]
        end = at + 27 + head[26] + sum(lengths)
        if len(lengths) < head[26] or end > len(data):
            raise ValueError(ENDS_EARLY)
        if _ogg_crc(data[at : at + 22] + bytes(4) + data[at + 26 : end]) != int.from_bytes(
            head[22:26], "little"
        ):
            raise ValueError(f"it is damaged after byte {at} (wrong checksum)")
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        if number != pages.get(stream, number - 1) + 1:
            raise ValueError(f"a page is missing before byte {at}")
        pages[stream], ended[stream], at = number, bool(head[5] & 4), end
    if not all(ended.values()):
        raise ValueError("it ends before its last page")


def _ogg_crc(page: bytes) -> int:
    """CRC-32 with the highest bit first, as zlib's with every byte reversed; starts at 0, no final inversion."""
    reflected = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(REVERSED), "big")
