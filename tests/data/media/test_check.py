"""The check of many files: in order, in parallel, with progress, remembering what was accepted."""

import sqlite3
from pathlib import Path

import pytest

from fedloom.data.media import Checking, Media, MediaSettings, accepted, check, check_all, checking
from tests.data.media.generated_files import content, hole


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Media]:
    """Three good files and a bad one, old enough to be remembered by an empty cache."""
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(accepted, "SETTLED", -1)
    monkeypatch.setattr(accepted, "_here", {})
    media = []
    for number, name in enumerate(("png", "jpg", "wav", "flac")):
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(content(name))
        media.append(Media("image" if number < 2 else "audio", path))
    (tmp_path / "1.jpg").write_bytes(b"no picture")
    return media


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []
    real = check.check_media

    def watched(modality: str, source: Path, *args: object, **options: object) -> tuple[str, ...]:
        names.append(source.name)
        return real(modality, source, *args, **options)

    monkeypatch.setattr(check, "check_media", watched)
    return names


def test_findings_in_order_with_progress_and_each_file_once(files: list[Media], decoded: list[str]) -> None:
    seen: list[tuple[int, int]] = []
    with checking(Checking(progress=lambda done, count: seen.append((done, count)))):
        faults = [f.fault is None for f in check_all([*files, files[0]])]
    assert faults == [True, False, True, True, True]
    assert seen == [(4, 4)]
    assert sorted(decoded) == ["0.png", "1.jpg", "2.wav", "3.flac"]


def test_a_second_start_decodes_only_what_was_refused_or_has_changed(
    files: list[Media], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_all(files)
    monkeypatch.setattr(accepted, "_here", {})  # another process
    decoded.clear()
    assert [f.fault is None for f in check_all(files)] == [True, False, True, True]
    assert decoded == ["1.jpg"]
    decoded.clear()
    path = files[0].source
    assert isinstance(path, Path)
    path.write_bytes(hole(content("png"), 200, bytes(8)))  # of the same size
    assert check_all(files[:1])[0].fault is not None
    bounded = Media("audio", files[2].source, MediaSettings(seconds=0.1))
    assert "data.media.seconds" in str(check_all([bounded])[0].fault)
    assert decoded == ["0.png", "2.wav"]


def test_a_file_just_written_is_not_remembered(
    files: list[Media], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next change might not show in its times."""
    monkeypatch.setattr(accepted, "SETTLED", 2.0)
    check_all(files[:1])
    check_all(files[:1])
    assert decoded == ["0.png", "0.png"]


def test_a_damaged_cache_is_ignored_and_begun_anew(
    files: list[Media], decoded: list[str], monkeypatch
) -> None:
    check_all(files)
    cache = accepted.cache_folder() / "accepted-media.sqlite"
    cache.write_bytes(b"damaged" * 1000)
    for _ in range(3):
        monkeypatch.setattr(accepted, "_here", {})
        decoded.clear()
        assert [f.fault is None for f in check_all(files)] == [True, False, True, True]
    assert decoded == ["1.jpg"]
    with sqlite3.connect(cache) as store:
        assert store.execute("SELECT count(*) FROM accepted").fetchone() == (3,)


def test_without_a_place_for_a_cache(files: list[Media], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", "/proc/none")
    assert [f.fault is None for f in check_all(files)] == [True, False, True, True]


def test_quick_looks_at_headers_alone(files: list[Media]) -> None:
    path = files[0].source
    assert isinstance(path, Path)
    path.write_bytes(hole(content("png"), 200, bytes(8)))
    with checking(Checking(quick=True)):
        assert [f.fault is None for f in check_all(files)] == [True, False, True, True]
    assert check_all(files[:1])[0].fault is not None


def test_notes_are_counted(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    media = []
    for number in range(3):
        Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / f"{number}.png")
        media.append(Media("image", tmp_path / f"{number}.png"))
    with checking(Checking()) as how:
        check_all(media)
    assert list(how.notes.values()) == [3]
