from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.core.new_folder import new_folder


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "deep"):
        with new_folder(folder) as part:
            (part / "a").write_text("a")
            assert not (folder / "a").exists()
        assert [p.name for p in folder.iterdir()] == ["a"]
        assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def test_nothing_is_left_of_a_folder_that_failed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "new") as part:
            (part / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, says in (("mine", "is not empty"), ("file", "is no folder"), ("link", "is no folder")):
        with pytest.raises(ExperimentError, match=says), new_folder(tmp_path / name):
            pass
    assert (tmp_path / "mine" / "a").read_text() == (tmp_path / "file").read_text() == "mine"
