"""One clear sentence for every fault of a table, and what may be skipped."""

from pathlib import Path

import datasets
import pytest
import torch

from fedloom.core.errors import ExperimentError
from tests.data.tables.grey_pictures import ASKED, refusal
from tests.data.tables.tables import files, image_table, lines, load, png, rows


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
