"""Accepted at the check means: decodes in every round to the same bytes. Damage that a format can show is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedloom.data.media import Media, check_all, check_media, decode_media
from tests.data.media.generated_files import NAMES, content, hole, modality

CHECKED_FROM = {"png": 0, "ogg": 0, "opus": 0, "flac": 100, "mp3": 600}
"""Formats whose checksums cover every byte from this one on."""


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, bytes, bool]:
    """A format's name, a damaged file of it, and whether the format's checksums cover the damage."""
    name = draw(st.sampled_from(NAMES))
    data = content(name)
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["zeros", "noise", "cut", "header"]))
    if kind == "cut":
        return name, data[:at], False
    if kind == "header":
        other = content(draw(st.sampled_from([n for n in NAMES if modality(n) == modality(name)])))
        size = draw(st.sampled_from([8, 24, 44, 200]))
        return name, other[:size] + data[size:], False
    length = draw(st.sampled_from([1, 16, 128, 1024]))
    filling = bytes(length) if kind == "zeros" else np.random.default_rng(at).bytes(length)
    return name, hole(data, at, filling), at >= CHECKED_FROM.get(name, len(data))


@given(damages())
@settings(deadline=None, max_examples=300, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_is_accepted_decodes_in_every_round_to_the_same_bytes(tmp_path_factory, damage) -> None:
    name, data, covered = damage
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(data)
    media = Media(modality(name), path)
    [finding] = check_all([media])
    if finding.fault is not None:
        assert finding.fault
        assert "\n" not in finding.fault
        return
    first = media.decode()
    assert first.isfinite().all()
    assert first.shape[-1] > 0
    for _ in range(2):
        assert torch.equal(media.decode(), first)
    if covered:
        assert torch.equal(first, decode_media(modality(name), content(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_accepted_without_a_note(name: str) -> None:
    assert check_media(modality(name), content(name)) == ()


def long_sound(name: str) -> bytes:
    file = io.BytesIO()
    sound = np.random.default_rng(0).normal(0, 0.2, 48_000)
    soundfile.write(file, sound, 16_000, format=name)
    return file.getvalue()


@pytest.mark.parametrize("name", ["MP3", "FLAC", "OGG"])
@pytest.mark.parametrize("size", [100, 4096])
def test_zeros_inside_a_sound(name: str, size: int) -> None:
    data = long_sound(name)
    with pytest.raises(Exception, match=r"damaged|frames"):
        check_media("audio", hole(data, len(data) // 2, bytes(size)))


def test_a_flac_of_samples_other_than_its_checksum() -> None:
    data = bytearray(content("flac"))
    data[26] ^= 1
    with pytest.raises(ValueError, match="its samples are damaged"):
        check_media("audio", bytes(data))


def test_garbage_in_the_pixels_of_a_png_with_right_checksums() -> None:
    import struct
    import zlib

    data = content("png")
    at = data.index(b"IDAT") + 4
    length = int.from_bytes(data[at - 8 : at - 4], "big")
    body = hole(data[at : at + length], length // 2, bytes(range(1, 40)))
    crc = struct.pack(">I", zlib.crc32(b"IDAT" + body))
    with pytest.raises(ValueError, match="its pixels are damaged"):
        check_media("image", data[:at] + body + crc + data[at + length + 4 :])


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0, "quality": 95}, {"progressive": True}, {"optimize": True}]
)
@pytest.mark.parametrize("size", [256, 2048])
def test_a_hole_in_a_jpeg(options: dict[str, object], size: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(file, "JPEG", **options)
    data = file.getvalue()
    check_media("image", data)
    with pytest.raises(ValueError, match=r"compressed data|damaged"):
        check_media("image", hole(data, len(data) // 2, bytes(size)))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 1}]
)
@pytest.mark.parametrize("picture", ["flat", "tiny", "grey", "cmyk"])
def test_whole_jpegs_are_accepted(options: dict[str, object], picture: str) -> None:
    made = {
        "flat": Image.new("RGB", (301, 97), "white"),
        "tiny": Image.new("RGB", (1, 3), "red"),
        "grey": Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 65), np.uint8)),
        "cmyk": Image.new("CMYK", (40, 40), (10, 200, 30, 7)),
    }
    file = io.BytesIO()
    made[picture].save(file, "JPEG", **options)
    assert check_media("image", file.getvalue()) == ()


def test_a_sound_that_ends_before_its_header_says(tmp_path: Path) -> None:
    data = content("wav")
    for damaged, says in (
        (data[:-2000], "ends before its header says"),
        (long_sound("OGG")[:-1000], "ends before its header says"),
        (content("mp3")[:-5], "ends within a frame"),
    ):
        with pytest.raises(ValueError, match=says):
            check_media("audio", damaged)


def test_tags_around_an_mp3_are_no_damage() -> None:
    data = content("mp3")
    tagged = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + data + b"TAG" + bytes(125)
    assert check_media("audio", tagged) == ()


def test_an_mp3s_checksum_shows_what_its_frames_do_not() -> None:
    data = bytearray(content("mp3"))
    data[-20] ^= 1  # inside the last frame
    with pytest.raises(ValueError, match="its sound is damaged"):
        check_media("audio", bytes(data))
