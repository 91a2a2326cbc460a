"""The formats that people have: each is read, or refused in one sentence that says what would be."""

import json
from pathlib import Path

import datasets
import pytest

from tests.data.tables.grey_pictures import ASKED, grey, refusal
from tests.data.tables.tables import files, image_table, lines, load, notes, png, rows, wav


def test_parquet_with_picture_bytes(tmp_path: Path) -> None:
    table = image_table(6, question=["what?"] * 6, answer=[f"a{i}" for i in range(6)])
    table.to_parquet(tmp_path / "x.parquet")
    found = rows(tmp_path / "x.parquet")
    assert [(s.question, s.answer, grey(s)) for s in found] == [("what?", f"a{i}", i) for i in range(6)]
    assert found[2].modalities["image"].shape == (3, 4, 6)
    assert found[2].kind == "image"


def test_parquet_with_sounds_and_with_plain_bytes(tmp_path: Path) -> None:
    sounds = [{"bytes": wav(i), "path": None} for i in range(3)]
    spoken = datasets.Dataset.from_dict({"audio": sounds, "text": ["one", "two", "three"]})
    spoken.cast_column("audio", datasets.Audio()).to_parquet(tmp_path / "spoken.parquet")
    found = rows(tmp_path / "spoken.parquet", question="write down the speech.")
    assert [(s.question, s.answer) for s in found][1] == ("write down the speech.", "two")
    assert found[1].modalities["audio"].shape == (1600,)
    plain = datasets.Dataset.from_dict({"img": [png(i) for i in range(3)], "caption": ["a", "b", "c"]})
    plain.to_parquet(tmp_path / "plain.parquet")
    assert [grey(s) for s in rows(tmp_path / "plain.parquet")] == [0, 1, 2]


def test_save_to_disk_with_and_without_splits(tmp_path: Path) -> None:
    table = image_table(4, question=["q"] * 4, answer=["a", "b", "c", "d"])
    table.save_to_disk(tmp_path / "one")
    assert [s.answer for s in rows(tmp_path / "one")] == ["a", "b", "c", "d"]
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(tmp_path / "two")
    (client,) = load(tmp_path / "two", clients=1)
    assert ([s.answer for s in client.train], [s.answer for s in client.test]) == (
        ["a", "b", "c", "d"],
        ["b"],
    )


def test_an_arrow_file(tmp_path: Path) -> None:
    image_table(3, answer=["a", "b", "c"]).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    assert [(s.answer, grey(s)) for s in rows(file)] == [("a", 0), ("b", 1), ("c", 2)]


# Folders


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_image_folder_with_metadata(tmp_path: Path, suffix: str) -> None:
    names = files(tmp_path, 3, under="deep/er")
    table = datasets.Dataset.from_dict({"file_name": names, "text": ["a", "b", "c"]})
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[suffix](
        str(tmp_path / f"metadata.{suffix}")
    )
    assert [(s.answer, grey(s)) for s in rows(tmp_path, question="describe it.")] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
    ]


def test_audio_folder_with_metadata_csv(tmp_path: Path) -> None:
    files(tmp_path, 3, "wav")
    (tmp_path / "metadata.csv").write_text(
        "file_name,question,answer\n0.wav,what?,NA\n1.wav,what?,007\n2.wav,what?,x\n"
    )
    found = rows(tmp_path)
    assert [(s.kind, s.answer) for s in found] == [("audio", "NA"), ("audio", "007"), ("audio", "x")]


def test_file_names_by_modality_in_one_row(tmp_path: Path) -> None:
    files(tmp_path, 2)
    files(tmp_path, 2, "wav")
    records = [
        {"image_file_name": f"{i}.png", "audio_file_name": f"{i}.wav", **ASKED, "answer": "x"} for i in (0, 1)
    ]
    lines(tmp_path / "metadata.jsonl", records)
    assert [s.kind for s in rows(tmp_path)] == ["image+audio"] * 2


def test_nested_folders_with_a_metadata_file_each_are_splits(tmp_path: Path) -> None:
    for part in ("train", "test"):
        records = [{"file_name": n, "text": part} for n in files(tmp_path / part, 2)]
        lines(tmp_path / part / "metadata.jsonl", records)
    (client,) = load(tmp_path, clients=1)
    assert ([s.answer for s in client.train], [s.answer for s in client.test]) == (
        ["train"] * 2,
        ["test"] * 2,
    )


def test_class_folders(tmp_path: Path) -> None:
    for part, number in (("train", 2), ("test", 1)):
        for name in ("cat", "dog"):
            files(tmp_path, number, under=f"{part}/{name}")
    (client,) = load(tmp_path, clients=1, question="which animal?")
    assert sorted(s.answer for s in client.train) == ["cat", "cat", "dog", "dog"]
    assert sorted(s.answer for s in client.test) == ["cat", "dog"]
    assert client.train[0].meta["columns"] == {"label": "cat"}


def test_split_files_and_shards(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation"):
        image_table(2, answer=[name, name]).to_parquet(tmp_path / "data" / f"{name}.parquet")
    (client,) = load(tmp_path, clients=1)
    assert len(client.train) == 4
    assert {s.answer for s in client.test} == {"validation"}


def test_a_set_of_training_rows_alone_is_split(tmp_path: Path) -> None:
    table = image_table(10, question=["q"] * 10, answer=["a"] * 10)
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "x")
    (client,) = load(tmp_path / "x", clients=1)
    assert (len(client.train), len(client.test)) == (8, 2)
    assert any("no test rows, so data.test_share" in note for note in client.notes)


# Text files


def test_tsv_semicolons_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("question\tanswer\none, two\tyes\nthree\tno\n")
    (tmp_path / "b.csv").write_text("\ufeffquestion;answer\none, two;yes\nthree;no\n", encoding="utf-8")
    for name in ("a.tsv", "b.csv"):
        assert [(s.question, s.answer) for s in rows(tmp_path / name)] == [
            ("one, two", "yes"),
            ("three", "no"),
        ]


def test_number_truth_and_list_answers(tmp_path: Path) -> None:
    answers = [3, 2.5, 4.0, True, ["b", "a", "a"], {"answers": ["x", "y"]}, [{"answer": "z"}], "007"]
    lines(tmp_path / "x.jsonl", [{**ASKED, "answer": a} for a in answers])
    assert [s.answer for s in rows(tmp_path / "x.jsonl")] == ["3", "2.5", "4", "true", "a", "x", "z", "007"]


def test_a_row_without_answer_is_left_out_and_said(tmp_path: Path) -> None:
    lines(tmp_path / "x.jsonl", [{**ASKED, "answer": a} for a in ("a", None, [], "b")])
    assert [s.uid for s in rows(tmp_path / "x.jsonl")] == ["1", "4"]
    assert any("2 of 4 rows have no answer" in note for note in notes(tmp_path / "x.jsonl"))


def test_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(
        json.dumps([{**ASKED, "answer": "é"}, {"answer": 2, **ASKED}], indent=1, ensure_ascii=False)
    )
    assert [s.answer for s in rows(tmp_path / "x.json")] == ["é", "2"]


# Conversations

LLAVA = {"from": "human", "value": "<image>\nwhat is it?"}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_llava(tmp_path: Path, suffix: str) -> None:
    records = [
        {"id": i, "image": n, "conversations": [LLAVA, {"from": "gpt", "value": f"a{i}"}]}
        for i, n in enumerate(files(tmp_path, 3, under="coco"))
    ]
    file = lines(tmp_path / f"x.{suffix}", records)
    if suffix == "json":
        file.write_text(json.dumps(records))
    found = rows(file)
    assert [(s.question, s.answer, grey(s)) for s in found][2] == ("what is it?", "a2", 2)
    assert [t.role for t in found[0].turns] == ["user", "assistant"]
    assert found[0].turns[0].media[0].key == "image"


def test_messages_with_parts_strings_and_pictures_inside(tmp_path: Path) -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode(png(5)).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    records = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "five"}]},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]},
    ]
    records[1]["messages"].append({"role": "assistant", "content": "so"})
    found = rows(lines(tmp_path / "x.jsonl", records))
    assert [(s.kind, s.question, s.answer) for s in found] == [
        ("image", "what?", "five"),
        ("text", "why?", "so"),
    ]
    assert grey(found[0]) == 5
    assert found[1].turns[0].role == "system"


def test_two_pictures_and_three_turns(tmp_path: Path) -> None:
    names = files(tmp_path, 2)
    talk = [
        {"from": "human", "value": "<image>\n<image>\nwhich is darker?"},
        {"from": "gpt", "value": "the first"},
        {"from": "human", "value": "sure?"},
        {"from": "gpt", "value": "yes"},
    ]
    lines(tmp_path / "x.jsonl", [{"images": names, "conversations": talk}] * 2)
    sample = rows(tmp_path / "x.jsonl")[0]
    assert list(sample.modalities) == ["image", "image-2"]
    assert [m.key for m in sample.turns[0].media] == ["image", "image-2"]
    assert (len(sample.turns), sample.question, sample.answer) == (4, "sure?", "yes")
    assert (sample.kind, int(sample.modalities["image-2"].unique())) == ("image", 10)


def test_two_pictures_without_a_conversation(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {"images": [[{"bytes": png(i), "path": None} for i in (1, 2)]] * 2, "answer": ["a", "b"]},
        features=datasets.Features(
            {"images": datasets.List(datasets.Image()), "answer": datasets.Value("string")}
        ),
    )
    table.to_parquet(tmp_path / "x.parquet")
    sample = rows(tmp_path / "x.parquet")[0]
    assert [int(m.unique()) for m in sample.modalities.values()] == [10, 20]


# Columns, splits and clients


def test_one_table_with_a_client_column(tmp_path: Path) -> None:
    records = [{**ASKED, "answer": f"a{i}", "hospital": ["north", "south"][i % 2]} for i in range(8)]
    north, south = load(lines(tmp_path / "x.jsonl", records))
    assert (north.name, south.name) == ("north", "south")
    assert {s.answer for s in (*north.train, *north.test)} == {"a0", "a2", "a4", "a6"}
    assert len(north.test) == len(south.test) == 1


@pytest.mark.parametrize("word", ["validation", "val", "dev", "Valid"])
def test_validation_rows_are_the_test_rows_if_there_are_no_others(tmp_path: Path, word: str) -> None:
    records = [{**ASKED, "answer": f"a{i}", "split": "train" if i else word} for i in range(4)]
    file = lines(tmp_path / "x.jsonl", records)
    (client,) = load(file, clients=1)
    assert [s.answer for s in client.test] == ["a0"]
    assert any("validation rows are the test rows" in note for note in client.notes)
    lines(file, [*records, {**ASKED, "answer": "t", "split": "test"}])
    (client,) = load(file, clients=1)
    assert [s.answer for s in client.test] == ["t"]
    assert any("validation rows are left out" in note for note in client.notes)


def test_absolute_paths_inside_the_root_and_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (name,) = files(root / "pictures", 1)
    lines(root / "x.jsonl", [{"image": str(root / "pictures" / name), **ASKED, "answer": "a"}] * 2)
    assert len(rows(root)) == 2
    files(tmp_path / "other", 1)
    lines(root / "x.jsonl", [{"image": str(tmp_path / "other/0.png"), **ASKED, "answer": "a"}])
    assert "line 1 of" in refusal(root)
    assert "leads out of the data's folder; copy the file into it" in refusal(root)


def test_extra_columns_are_ignored_and_said_once(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [{**ASKED, "answer": "a", "colour": "red", "source_id": 3}] * 3)
    assert len(rows(file)) == 3
    assert notes(file) == [
        f"{file}: columns guessed from their names: {{question: question, answer: answer}}",
        f"{file}: columns not read: colour, source_id",
    ]


def test_named_columns(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [{"frage": "wo?", "antwort": "da", "who": n} for n in "abab"])
    clients = load(file, columns={"question": "frage", "answer": "antwort", "client": "who"})
    assert [c.name for c in clients] == ["a", "b"]
    assert clients[0].notes == ()
    assert "has no column 'frag'; it has frage, antwort, who" in refusal(file, columns={"question": "frag"})


# One sentence that says what would work


def test_an_ambiguous_guess(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [{**ASKED, "caption": "a", "response": "b"}])
    assert "name one, as in columns: {answer: caption}" in refusal(file)
    assert rows(file, columns={"answer": "response"})[0].answer == "b"
