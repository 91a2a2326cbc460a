"""The first look at a folder or table: its layout, its columns, and what it counts."""

import json
from pathlib import Path

import datasets
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.inspection.inspect import inspect
from fedloom.data.inspection.layout import layout_of
from tests.data.tables.tables import files, lines, png, write_stamps


def csv(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_captions_with_spoken_names(tmp_path: Path) -> None:
    seen = inspect(write_stamps(tmp_path / "stamps"))
    assert (seen.layout.source, seen.samples, seen.kinds) == ("table", 5, {"image": 5})
    assert seen.found.parts == {"image": "image", "answer": "text", "client": "folder"}
    assert seen.found.others == {"audio_desc_fr": 6, "subfolder": 2, "audio_desc": 1, "image_mirror": 1}
    assert seen.clients == {"animals": 3, "food": 2}
    assert seen.files == {".png": 7, ".ogg": 7, ".txt": 6}
    assert seen.other_files == {".svg": 1}
    assert seen.question == "what is in the picture?"
    assert seen.longest == (5, 2)
    assert seen.media["image"].count == 5
    assert seen.media["image"].largest == (6, 4)


def test_lengths_of_sounds_and_labels_of_class_folders(tmp_path: Path) -> None:
    for k, name in enumerate(("bell", "horn")):
        files(tmp_path, 3 + k, "wav", name)
    seen = inspect(tmp_path)
    assert (seen.classes, seen.found.parts) == (
        {"horn": 4, "bell": 3},
        {"audio": "file_name", "label": "label"},
    )
    assert seen.media["audio"].longest == pytest.approx(0.1)


def test_files_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    names = files(tmp_path, 6)
    (tmp_path / names[2]).write_bytes(b"no picture")
    csv(tmp_path / "metadata.csv", "file_name,text", *(f"{n},thing" for n in names))
    seen = inspect(tmp_path)
    assert seen.samples == 5
    assert len(seen.faults) == 1
    assert "row 3" in seen.faults[0]


def test_layouts(tmp_path: Path) -> None:
    for name in ("north", "south"):
        csv(tmp_path / "tables" / f"{name}.csv", "question,answer", "q,a")
        csv(tmp_path / "folders" / name / "visits.csv", "question,answer", "q,a")
    for name in ("train", "test"):
        csv(tmp_path / "splits" / name / "metadata.csv", "file_name,text", "0.png,a")
    csv(tmp_path / "beside/metadata.csv", "file_name,text", "images/0.png,a")
    for domain in ("photo", "sketch"):
        for name in ("cat", "dog"):
            files(tmp_path / "domains" / domain / name, 1)
            files(tmp_path / "classes" / name, 1)
    (tmp_path / "coop").mkdir()
    (tmp_path / "coop/split_own.json").write_text("{}", encoding="utf-8")
    datasets.Dataset.from_dict({"question": ["q"], "answer": ["a"]}).save_to_disk(tmp_path / "saved")
    found = {path.name: layout_of(path) for path in sorted(tmp_path.iterdir())}
    assert {name: layout.source for name, layout in found.items()} == {
        "beside": "table",
        "classes": "classes",
        "coop": "classes",
        "domains": "classes",
        "folders": "folder",
        "saved": "table",
        "splits": "table",
        "tables": "folder",
    }
    assert found["domains"].domains == ("photo", "sketch")
    assert found["classes"].domains == ()


def test_a_folder_of_plain_records_has_no_columns_to_name(tmp_path: Path) -> None:
    for client in ("a", "b"):
        names = files(tmp_path / client, 2)
        lines(
            tmp_path / client / "metadata.jsonl",
            [{"image": n, "question": "q", "answer": "a"} for n in names],
        )
    seen = inspect(tmp_path)
    assert (seen.layout.source, seen.found.parts, seen.clients) == ("folder", {}, {"a": 2, "b": 2})


def test_clients_whose_tables_hold_no_questions_are_asked_one(tmp_path: Path) -> None:
    for client in ("a", "b"):
        names = files(tmp_path / client, 2)
        csv(tmp_path / client / "metadata.csv", "file_name,text", *(f"{n},thing" for n in names))
    seen = inspect(tmp_path)
    assert (seen.found.parts, seen.question) == (
        {"image": "file_name", "answer": "text"},
        "what is in the picture?",
    )


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            {"x.png": png(0)},
            r"nothing says what the pictures and sounds in .* show, such as x\.png; there should be a table",
        ),
        ({"x.doc": b"x"}, "no table, picture or sound that can be read; there should be a table"),
        (
            {"x.csv": b"a,b\n1,2\n"},
            r"has the columns a, b, of which none is known for answers; call one answer",
        ),
        (
            {"x.csv": b"answer\n1\n"},
            "has the columns answer, of which none is known for questions, pictures or sounds",
        ),
        ({"x.csv": b"question,answer\nq,a\n"}, "holds 1 usable samples, and an experiment needs 4 or more"),
        (
            {"a/x.png": png(0), "b/x.wav": b"x"},
            "holds 1 pictures and 1 sounds by class, and a classifier reads one kind; make two experiments",
        ),
        ({"x.jsonl": json.dumps({"answer": "x"}).encode() + b"\n{"}, "line 2 of .* is no JSON object"),
    ],
)
def test_a_faulty_folder_is_one_sentence_that_says_what_would_be_right(
    tmp_path: Path, written: dict[str, bytes], says: str
) -> None:
    for name, content in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExperimentError, match=says) as caught:
        inspect(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"there is no file or folder .*nothing"):
        inspect(tmp_path / "nothing")
