"""Pictures: grey of more than 8 bits, turned photos, and bounds."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.data.media import MediaSettings, check_media, decode_media
from fedloom.data.media.picture import OWN_RANGE


def encoded(values: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def with_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    """The PNG with one more chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return png[:33] + chunk + png[33:]


TWELVE = np.array([[0, 16, 2048, 4095]], np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_12_bits_uses_the_whole_range_and_says_so(kind: str) -> None:
    data = encoded(TWELVE, kind)
    assert decode_media("image", data)[0].tolist() == [[0, 1, 128, 255]]
    assert check_media("image", data) == (OWN_RANGE,)


def test_the_files_stated_depth_and_the_setting_win() -> None:
    dark = encoded(TWELVE // 16)
    stated = with_chunk(dark, b"sBIT", bytes([12]))
    assert decode_media("image", stated)[0].tolist() == [[0, 0, 8, 15]]
    assert check_media("image", stated) == ()
    fixed = MediaSettings(grey_bits=16)
    assert decode_media("image", encoded(TWELVE), fixed)[0].tolist() == [[0, 0, 8, 15]]
    assert check_media("image", encoded(TWELVE), fixed) == ()
    tiff = encoded(TWELVE // 16, "TIFF", tiffinfo={281: 4095})
    assert decode_media("image", tiff)[0].tolist() == [[0, 0, 8, 15]]


def test_a_stated_depth_that_was_stretched_over_16_bits() -> None:
    data = with_chunk(encoded(TWELVE * 16), b"sBIT", bytes([12]))
    assert decode_media("image", data)[0].tolist() == [[0, 1, 128, 255]]


def test_thermal_pictures_of_14_bits_use_the_whole_range() -> None:
    data = encoded(np.array([[0, 16383]], np.uint16))
    assert decode_media("thermal", data).tolist() == [[[0.0, 1.0]]]
    assert check_media("thermal", data) == (OWN_RANGE,)


def png16_colour(value: int) -> bytes:
    rows = b"".join(b"\0" + struct.pack(">3H", value, value, value) * 2 for _ in range(2))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    packed = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_colours_of_12_bits_are_refused_because_they_would_become_black() -> None:
    assert decode_media("image", png16_colour(0x8000)).unique().tolist() == [128]
    with pytest.raises(ValueError, match="would become black"):
        check_media("image", png16_colour(4095))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_the_camera(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.zeros((16, 32, 3), np.uint8)
    values[:8, :8] = 255
    data = encoded(values, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    assert torch.equal(decode_media("image", data), torch.from_numpy(expected).permute(2, 0, 1))


def test_odd_tags_of_a_turned_photo_do_not_matter() -> None:
    """GPS figures of 0/0 cannot be written anew by older Pillows, and need not be."""
    gps = b"\x01\x00\x02\x00\x05\x00\x03\x00\x00\x00"  # one entry: GPSLatitude, three rationals
    ifd = 8 + 2 + 2 * 12 + 4
    tiff = b"II*\0" + struct.pack("<IH", 8, 2)
    tiff += struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x8825, 4, 1, ifd)
    tiff += struct.pack("<I", 0) + gps + struct.pack("<II", ifd + 18, 0) + bytes(24)
    data = encoded(np.zeros((8, 16, 3), np.uint8), "JPEG", exif=b"Exif\0\0" + tiff)
    check_media("image", data)
    assert decode_media("image", data).shape == (3, 16, 8)


@pytest.mark.parametrize(
    ("shape", "settings", "says"),
    [
        ((1, 20_000), {}, "data.media.aspect allows a ratio of 100"),
        ((30, 30), {"pixels": 800}, "it has 30 x 30 pixels, and data.media.pixels allows 800"),
        ((30, 30), {"megabytes": 0.0001}, "data.media.megabytes allows 0.0001"),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_bounds(shape: tuple[int, int], settings: dict, says: str, quick: bool) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    with pytest.raises(ValueError, match=says):
        check_media("image", data, MediaSettings(**settings), quick=quick)


def test_the_decoder_has_the_bounds_of_the_check() -> None:
    with pytest.raises(ValueError, match=r"data\.media\.pixels"):
        decode_media("image", encoded(np.zeros((9, 9), np.uint8)), MediaSettings(pixels=80))
