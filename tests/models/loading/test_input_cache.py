"""The cache of preprocessed inputs on disk."""

import os
from pathlib import Path

import pytest
import torch

from fedloom.core.tensor_files import with_checksum
from fedloom.models.loading import input_cache
from fedloom.models.loading.input_cache import InputCache

KEYS = [f"{i}{i}{'0' * 62}" for i in range(6)]


def inputs(value: int) -> dict[str, torch.Tensor]:
    return {"image": torch.full((3, 20, 30), value, dtype=torch.uint8)}


SIZE = len(with_checksum(inputs(0)))


def held(cache: InputCache) -> list[int]:
    return [i for i, key in enumerate(KEYS) if cache.holds(key)]


def test_what_was_written_is_read_by_another_run(tmp_path: Path) -> None:
    cache = InputCache(10**6, tmp_path / "prepared")
    assert cache.read(KEYS[0]) is None
    cache.write(KEYS[0], with_checksum(inputs(7)))
    found = InputCache(10**6, tmp_path / "prepared").read(KEYS[0])
    assert found is not None
    assert list(found) == ["image"]
    assert torch.equal(found["image"], inputs(7)["image"])


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    cache = InputCache(10**6, tmp_path / "prepared")
    cache.write(KEYS[0], with_checksum(inputs(7)))
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "prepared").rglob("*")}
    assert modes == {"00": 0o700, f"{KEYS[0]}.safetensors": 0o600}
    assert (tmp_path / "prepared").stat().st_mode & 0o777 == 0o700


def test_the_least_recently_read_are_removed(tmp_path: Path) -> None:
    cache = InputCache(int(4.5 * SIZE), tmp_path)
    for i in range(4):
        cache.write(KEYS[i], with_checksum(inputs(i)))
        os.utime(next(tmp_path.glob(f"*/{KEYS[i]}*")), (100 + i, 100 + i))
    assert held(cache) == [0, 1, 2, 3]
    assert cache.read(KEYS[0]) is not None  # read last, written first
    cache.write(KEYS[4], with_checksum(inputs(4)))
    assert held(cache) == [0, 2, 3, 4] or held(cache) == [0, 3, 4]
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= 4.5 * SIZE


def test_files_of_other_runs_count(tmp_path: Path) -> None:
    first, second = (InputCache(int(3.5 * SIZE), tmp_path) for _ in range(2))
    second.write(KEYS[0], with_checksum(inputs(0)))
    for i in (1, 2):
        first.write(KEYS[i], with_checksum(inputs(i)))
    for i in (3, 4, 5):
        second.write(KEYS[i], with_checksum(inputs(i)))
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= 3.5 * SIZE
    assert second.holds(KEYS[5])


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_removed_and_said_once(kind: str, tmp_path: Path, capsys) -> None:
    cache = InputCache(10**6, tmp_path)
    for i in (0, 1):
        cache.write(KEYS[i], with_checksum(inputs(i)))
        file = next(tmp_path.glob(f"*/{KEYS[i]}*"))
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes({"flipped": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[kind])
    assert [cache.read(KEYS[i]) for i in (0, 1)] == [None, None]
    assert held(cache) == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "is damaged, and read anew from its source" in said[0]
    cache.write(KEYS[0], with_checksum(inputs(3)))
    assert cache.read(KEYS[0]) is not None


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = InputCache(10**6, tmp_path / "file" / "prepared")
    for i in (0, 1):
        cache.write(KEYS[i], with_checksum(inputs(i)))
    assert (cache.written, held(cache)) == (0, [])
    assert capsys.readouterr().err.count("nothing more is cached in") == 1


def test_off_and_too_large_write_nothing(tmp_path: Path) -> None:
    for limit in (0, SIZE - 1):
        cache = InputCache(limit, tmp_path / "prepared")
        cache.write(KEYS[0], with_checksum(inputs(0)))
        assert cache.read(KEYS[0]) is None
    assert not (tmp_path / "prepared").exists()


def test_a_run_that_was_overtaken_by_another_ones_file_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, other = (InputCache(10**6, tmp_path / "prepared") for _ in range(2))

    def overtaken(path: Path, data: bytes, *, durable: bool = True) -> None:
        other_write(path, data, durable=durable)  # the other run's, which takes the part file away
        raise FileNotFoundError(2, "No such file or directory", str(path))

    other_write = input_cache.write_atomic
    monkeypatch.setattr(input_cache, "write_atomic", overtaken)
    cache.write(KEYS[0], with_checksum(inputs(7)))
    monkeypatch.undo()
    cache.write(KEYS[1], with_checksum(inputs(8)))
    assert held(other) == [0, 1]
    assert capsys.readouterr().err == ""
