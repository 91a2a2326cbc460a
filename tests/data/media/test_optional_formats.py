"""HEIC and AVIF of phones, animations, and what is said where a library is missing."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.media import Media, check_all, check_media, decode_media, modality_of_name
from fedloom.data.media.extra import MissingLibraryError
from fedloom.data.media.picture import FIRST_FRAME
from fedloom.data.sources.file_source import FileRules, check_samples
from tests.data.media.generated_files import content, pixels
from tests.data.media.recordings import sound, video


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_of_phones_are_upright(kind: str, orientation: int) -> None:
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels()).save(file, kind, quality=95, exif=exif.tobytes())
    assert check_media("image", file.getvalue()) == ()
    found = decode_media("image", file.getvalue()).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - np.rot90(pixels(), turns)).mean() < 8  # lossy colours


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (30, 20), (shade,) * 3) for shade in (10, 200, 90)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    assert check_media("image", file.getvalue()) == (FIRST_FRAME,)
    assert decode_media("image", file.getvalue()).float().mean() == pytest.approx(10, abs=1)


def test_a_photo_with_a_preview_inside_is_no_animation() -> None:
    file = io.BytesIO()
    photo = Image.fromarray(pixels())
    photo.save(file, "MPO", save_all=True, append_images=[photo.resize((8, 6))])
    assert check_media("image", file.getvalue()) == ()


@pytest.mark.parametrize("kind", ["heic", "avif", "gif"])
def test_a_cut_shows(kind: str) -> None:
    data = content(kind)
    for at in range(1, len(data), len(data) // 40):
        with pytest.raises(
            Exception, match=r"ends before|cannot identify|damaged|empty|not enough data|index"
        ):
            check_media("image", data[:at])


@pytest.mark.parametrize(
    ("name", "data", "library"),
    [
        ("x.heic", content("heic"), "pillow_heif"),
        ("x.dcm", bytes(128) + b"DICM" + bytes(200), "pydicom"),
        ("x.m4a", sound("ipod"), "av"),
        ("x.mkv", video("matroska"), "av"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_missing_library_is_the_machines_fault_not_the_files(
    name: str, data: bytes, library: str, skip_bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(data)
    media = Media(modality_of_name(name), tmp_path / name)
    monkeypatch.setitem(sys.modules, library, None)
    says = rf"^{name} needs {library.replace('_', '-')}: pip install 'fedloom\[media\]'$"
    with pytest.raises(MissingLibraryError, match=says):
        check_all([media])
    with pytest.raises(ExperimentError, match=says):
        check_samples({1: [media]}, lambda k, m, fault: fault, FileRules(skip_bad=skip_bad))


def test_what_no_library_knows_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF")  # as before the first HEIC
    with pytest.raises(OSError, match="cannot identify image file"):
        check_media("image", b"no picture at all")


def test_a_pillow_without_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedloom.data.media.picture.features.check", lambda name: False)
    with pytest.raises(MissingLibraryError, match=r"an AVIF picture needs Pillow 11\.3 or later with AVIF"):
        check_media("image", content("avif"))


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("a.JFIF", "image"),
        ("a.gif", "image"),
        ("a.mp4", "video"),
        ("a.webm", "video"),
        ("a.m4a", "audio"),
        ("a.npy", "imu"),
        ("a", "image"),
    ],
)
def test_the_modality_of_a_name(name: str, modality: str) -> None:
    assert modality_of_name(name) == modality


def test_a_jfif_is_a_jpeg() -> None:
    assert torch.equal(decode_media("image", content("jfif")), decode_media("image", content("jpg")))
