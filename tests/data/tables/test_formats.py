"""The formats that people have: each is read, or refused in one sentence that says what would be."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from fedloom.core.errors import ExperimentError
from tests.data.tables.tables import files, image_table, lines, load, notes, png, rows, wav

ASKED = {"question": "what is it?"}


def grey(sample) -> int:
    """The number of a sample's picture."""
    return int(sample.modalities["image"].unique()) // 10


def refusal(path: object, **fields: object) -> str:
    """The sentence with which a table is refused."""
    with pytest.raises(ExperimentError) as caught:
        rows(path, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Pictures and sounds inside the table


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "x.csv is empty; its first line should name the columns"),
        ("question,answer\n", "x.csv has no rows"),
        ("answer,answer\na,b\n", "has two columns called 'answer'; rename one"),
        (
            "question,picture_of\na,b\n",
            "none is known for answers; name it, as in data.columns: {answer: ...}",
        ),
        ("question,answer,image\na,b,no.png\n", "row 1 of"),
        ("question,answer,image\na,b,https://x.org/y.png\n", "download the file"),
        (
            "question,answer,split\na,b,train\na,b,fold1\n",
            "column 'split': should be train, validation or test",
        ),
        ("question,answer,client\na,b,x/y\n", "which is no folder's name"),
        ("question,answer\n,b\n", "has neither a question nor a picture or sound"),
        ("question,answer\na,b,c\n", "cannot be read as a table"),
        ("question,answer\na,\n", "no row of"),
    ],
)
def test_a_faulty_csv(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path / "x.csv", **({} if "client" in content else {"clients": 1}))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"question": "a", "answer": "b"}\n{"question"', "line 2 of"),
        ('[{"question": "a", "answer": "b"} {}]', "neither a comma nor the end"),
        ('[{"question": "a", "answer": "b"}', "neither a comma nor the end"),
        ("[]", "has no rows"),
        ('{"answer": "a", "answer": "b"}', "has the key 'answer' twice"),
        ("[1]", "should be a JSON object, and is a int"),
        (
            '{"question": "a", "answer": {"x": 1}}',
            "should be a text, a number or a list of them, and is an object",
        ),
        ('{"question": "a", "answer": "\\ud800"}', "column 'answer': holds half of a surrogate pair"),
        ('{"question": "a", "conversations": [{"from": "gpt", "value": "b"}]}', "column 'conversations'"),
    ],
)
def test_a_faulty_json(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert says in refusal(tmp_path / "x.json")


def test_a_broken_picture_in_a_cell_is_refused_or_skipped(tmp_path: Path) -> None:
    table = image_table(12, answer=[f"a{i}" for i in range(12)])
    broken = [{"bytes": png(i)[:60] if i == 3 else png(i), "path": None} for i in range(12)]
    table = datasets.Dataset.from_dict({"image": broken, "answer": table["answer"]}, features=table.features)
    table.to_parquet(tmp_path / "x.parquet")
    says = refusal(tmp_path / "x.parquet")
    assert "row 4 of" in says
    assert "column 'image': the image file cannot be used" in says
    (client,) = load(tmp_path / "x.parquet", clients=1, skip_bad=True)
    assert len(client.train) + len(client.test) == 11
    assert len(client.skipped) == 1


def test_a_missing_file_is_skipped_if_that_is_allowed(tmp_path: Path) -> None:
    names = files(tmp_path, 12)
    (tmp_path / names[4]).unlink()
    lines(tmp_path / "x.jsonl", [{"image": n, **ASKED, "answer": "a"} for n in names])
    assert "'4.png' is missing" in refusal(tmp_path / "x.jsonl")
    assert len(rows(tmp_path / "x.jsonl", skip_bad=True)) == 11


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.parquet").endswith(
        "there is no file or folder " + str(tmp_path / "no.parquet") + "."
    )
    says = refusal("someone/some-data")
    assert says.startswith(
        "data.path: there is no file or folder someone/some-data here, and the Hugging Face hub"
    )
    (tmp_path / "notes.txt").write_text("x")
    assert "should be a table, with a name that ends in .parquet" in refusal(tmp_path / "notes.txt")
    assert "holds no table" in refusal(tmp_path)
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / name).write_text("")
    assert "tables of several formats (.csv, .jsonl)" in refusal(tmp_path)


def test_a_table_without_clients_needs_a_number_of_them(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [{**ASKED, "answer": "a"}])
    with pytest.raises(ExperimentError, match=r"name their column, as in data\.columns: \{client: \.\.\.\}"):
        load(file)
    with pytest.raises(ExperimentError, match="too few for 2 clients"):
        load(file, clients=2)


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    assert "cannot be read as a table" in refusal(tmp_path / "x.parquet")


def test_pictures_of_a_table_are_named_by_paths_below_it_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(1))
    table = image_table(1, answer=["a"])
    stored = [{"bytes": None, "path": str(outside)}]
    datasets.Dataset.from_dict({"image": stored, "answer": ["a"]}, features=table.features).to_parquet(
        tmp_path / "in/x.parquet"
    )
    assert "leads out of the data's folder" in refusal(tmp_path / "in")


def test_samples_are_read_when_they_are_needed(tmp_path: Path) -> None:
    image_table(40, answer=[f"a{i}" for i in range(40)]).to_parquet(tmp_path / "x.parquet")
    (client,) = load(tmp_path / "x.parquet", clients=1)
    assert not isinstance(client.train, list | tuple)
    assert [s.uid for s in client.train[2:4]] == [client.train[2].uid, client.train[3].uid]
    torch.testing.assert_close(client.train[5].modalities["image"], client.train[5].modalities["image"])
    with pytest.raises(IndexError):
        client.train[len(client.train)]


def test_one_question_for_all_is_refused_where_nothing_would_ask_it(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    file = lines(tmp_path / "x.jsonl", [{"conversations": talk}])
    assert "data.question is not asked" in refusal(file, question="what?")
