"""The file by which the node finds the trainer: its loss is noticed once, whichever method saw it last."""

import pytest

from fedloom.deploy.reach import TrainerFile


@pytest.mark.parametrize("see", [TrainerFile.is_there, TrainerFile.is_lost])
def test_a_file_that_was_seen_once_is_lost_once(tmp_path, see) -> None:
    door = TrainerFile(tmp_path / "trainer.json")
    assert not door.is_lost()
    assert not door.is_there()
    door.file.touch()
    see(door)
    door.file.unlink()
    assert not door.is_there()
    assert [door.is_lost(), door.is_lost()] == [True, False]


def test_a_file_that_comes_back_can_be_lost_again(tmp_path) -> None:
    door = TrainerFile(tmp_path / "trainer.json")
    for _ in range(2):
        door.file.touch()
        assert door.is_there()
        door.file.unlink()
        assert door.is_lost()
