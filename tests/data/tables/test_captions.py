"""Pictures and sounds with a text beside them: which file belongs to which text, and what becomes a column."""

from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from tests.data.tables.tables import load, notes, rows, write_stamps


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    return write_stamps(tmp_path / "stamps")


def test_first_lines_are_answers_and_each_file_belongs_to_the_longest_stem(stamps: Path) -> None:
    found = rows(stamps, columns={"audio": "audio_desc_fr"}, question="what is it?")
    names = ["A cat.", "A pea.", "A pear.", "Salt.", "A frog.", "A frog-1."]
    assert sorted((s.answer, s.kind) for s in found) == sorted(
        (name, "audio" if name == "Salt." else "image+audio") for name in names
    )
    by_answer = {s.answer: s for s in found}
    assert int(by_answer["A frog-1."].modalities["image"].unique()) == 10
    assert int(by_answer["A frog."].modalities["image"].unique()) == 0


def test_a_folder_is_a_column_that_may_be_the_client(stamps: Path) -> None:
    clients = load(stamps, columns={"client": "folder"}, question="what is it?")
    assert [(c.name, len(c.train) + len(c.test)) for c in clients] == [("animals", 3), ("food", 2)]


def test_rows_without_caption_and_rows_without_a_file_to_ask_about_are_left_out_and_said(
    stamps: Path,
) -> None:
    said = notes(stamps, question="what is it?")
    assert any("1 of 7 rows have no answer" in note for note in said)
    assert any("1 of 7 rows hold no picture or sound to ask data.question about" in note for note in said)
    assert any(
        "columns not read: folder, subfolder, audio_desc, audio_desc_fr, image_mirror" in n for n in said
    )


def test_stray_texts_do_not_turn_class_folders_into_captions(stamps: Path) -> None:
    for file in stamps.rglob("*.*"):
        if file.suffix == ".ogg" or (file.suffix == ".txt" and file.stem != "cat"):
            file.unlink()
    assert {s.answer for s in rows(stamps)} == {"pond", "animals", "food"}


def test_a_caption_that_is_no_utf8_is_named(stamps: Path) -> None:
    (stamps / "food/pear.txt").write_bytes("Birne für dich".encode("latin-1"))
    with pytest.raises(ExperimentError, match=r"first line of .*food/pear\.txt should be text in UTF-8"):
        rows(stamps)
