"""Classes of one's own: which tables have them, their order, and every table that is none in one sentence."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import parse_source
from tests.data.tables.tables import files, image_table, lines, load, rows


def source(path: object, **fields: Any) -> Any:
    return parse_source({"source": "table", "path": path, **fields})


def texts(path: Path, labels: list[Any], **columns: list[Any]) -> Path:
    """Rows of distinct texts with these labels."""
    more = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    records = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    return lines(path, [r | (more[i] if more else {}) for i, r in enumerate(records)])


def labels(path: object, **fields: Any) -> tuple[str, ...]:
    """The classes that the clients' samples state, all the same."""
    (found,) = {s.meta["labels"] for s in rows(path, **fields)}
    return found


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["pos", "neg", "neutral"] * 2, ("neg", "neutral", "pos")),
        ([10, 9, 2] * 2, ("2", "9", "10")),
        ([3.0, 1.0, 1.0, 3.0], ("1", "3")),
        (["10", "9", "x", "9"], ("10", "9", "x")),
        ([True, False, True, False], ("false", "true")),
        (["é", "e", "\U0001f600", "e"], ("e", "é", "\U0001f600")),
    ],
)
def test_classes_stand_in_one_order_whatever_the_rows(tmp_path: Path, values, classes) -> None:
    assert labels(texts(tmp_path / "x.jsonl", values)) == classes
    assert labels(texts(tmp_path / "y.jsonl", values[::-1])) == classes


def test_a_data_sets_own_order_of_classes_stands_also_for_one_that_is_absent(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["wolf", "ape", "cat"])
    table = datasets.Dataset.from_dict({"text": [*"abcd"], "label": [0, 1, 0, 1]}).cast_column(
        "label", feature
    )
    table.save_to_disk(tmp_path / "saved")
    assert labels(tmp_path / "saved") == ("wolf", "ape", "cat")
    assert [s.answer for s in rows(tmp_path / "saved")] == ["wolf", "ape", "wolf", "ape"]
    assert labels(tmp_path / "saved", labels=["cat", "ape", "wolf"]) == ("cat", "ape", "wolf")


@pytest.mark.parametrize(
    ("columns", "settings", "task"),
    [
        ({"text": "a", "label": "x"}, {}, "classification"),
        ({"text": "a", "label": "x", "answer": "y"}, {}, "question-answering"),
        ({"text": "a", "label": "x"}, {"columns": {"answer": "label"}}, "question-answering"),
        ({"text": "a", "label": "x"}, {"answers": "words"}, "question-answering"),
        ({"text": "a", "label": "x"}, {"question": "which?"}, "question-answering"),
        ({"text": "a", "label": "x", "answer": "y"}, {"answers": "labels"}, "classification"),
        ({"question": "a", "answer": "x"}, {}, "question-answering"),
        (
            {"review": "a", "stars": 5},
            {"columns": {"question": "review", "label": "stars"}},
            "classification",
        ),
        ({"image": "x.png", "label": "x"}, {}, "classification"),
        ({"image": "x.png", "label": "x", "question": "which?"}, {}, "question-answering"),
        ({"image": "x.png", "label": "x", "caption": "a cat"}, {}, "question-answering"),
    ],
)
def test_the_columns_decide_the_task(tmp_path: Path, columns, settings, task) -> None:
    assert source(lines(tmp_path / "x.jsonl", [columns]), **settings).task_name == task


def test_a_table_that_is_not_there_decides_nothing(tmp_path: Path) -> None:
    assert source(tmp_path / "none.csv").task_name == "question-answering"
    lines(tmp_path / "x.jsonl", [{"text": "a", "label": "x"}])
    assert source(tmp_path / "x.jsonl").task_name == "classification"
    assert source(tmp_path / "none.csv", labels=["a", "b"]).task_name == "classification"


@pytest.mark.parametrize(
    "names",
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "sentence"), ("Text_A", "text_b")],
)
def test_two_texts_are_found_by_their_usual_names(tmp_path: Path, names) -> None:
    table = lines(
        tmp_path / "x.jsonl", [{names[0]: f"one {i}", names[1]: f"two {i}", "label": i % 2} for i in range(4)]
    )
    first = rows(table)[0]
    assert (first.question, first.meta["pair"], first.answer) == ("one 0", "two 0", "0")
    settled = source(table, clients=1).settled(load(table, clients=1))
    assert (settled.columns.pair, settled.labels, settled.answers) == (names[1], ("0", "1"), "labels")


def test_pictures_in_a_folder_for_each_class(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        files(tmp_path / name, 3)
    found = rows(tmp_path)
    assert {s.meta["labels"] for s in found} == {("cat", "dog")}
    assert all(s.kind == "image" and s.question == "" and s.answer in ("cat", "dog") for s in found)
    notes = "\n".join(load(tmp_path, clients=1)[0].notes)
    assert "a classifier learns 2 classes of pictures: cat, dog; data.answers: words has" in notes


def test_clients_in_folders_have_the_classes_of_all(tmp_path: Path) -> None:
    for client, own in (("a", ["x", "y"]), ("b", ["z", "y"])):
        (tmp_path / client).mkdir()
        texts(tmp_path / client / "data.jsonl", own * 2)
    of_folder = parse_source({"source": "folder", "path": tmp_path})
    assert of_folder.task_name == "classification"
    clients = of_folder.load(0)
    assert {s.meta["labels"] for c in clients for s in (*c.train, *c.test)} == {("x", "y", "z")}
    assert [sum("a classifier learns" in note for note in c.notes) for c in clients] == [1, 0]
    (tmp_path / "b" / "data.jsonl").unlink()
    lines(
        tmp_path / "b" / "metadata.jsonl", [{"question": "q", "label": "z"}, {"question": "r", "label": "x"}]
    )
    assert {s.answer for c in of_folder.load(0) for s in c.train if c.name == "b"} <= {"x", "z"}
    lines(tmp_path / "b" / "metadata.jsonl", [{"question": "q", "answer": "z"}])
    with pytest.raises(ExperimentError, match="b has no column of labels; name it"):
        of_folder.load(0)


@pytest.mark.parametrize(
    ("values", "columns", "settings", "says"),
    [
        (
            [0.5, 1.5, 0.5, 2.0],
            {},
            {},
            r"the labels are numbers with fractions, such as 0\.5; a classifier needs classes",
        ),
        (["a"] * 4, {}, {}, "all rows have the label 'a'; a classifier needs two classes or more"),
        ([*range(30)], {}, {}, "30 different labels in 30 rows are no classes; name another column"),
        (
            ["a", "b", "a", "c"],
            {"split": ["train", "train", "test", "test"]},
            {},
            "the class 'c' has test rows alone; give it training rows, or leave it out",
        ),
        (["a", "b", "c", "a"], {}, {"labels": ["a", "b"]}, "'c' is not among data.labels: a, b"),
        (["a", "b"], {}, {"labels": ["a", "a"]}, "labels names a class twice"),
        (["a", "b"], {}, {"labels": ["a"]}, "labels"),
        (
            ["a", "b"],
            {},
            {"labels": ["a", "b"], "answers": "words"},
            "labels are not read with answers: words",
        ),
        (["a", "b"], {}, {"answers": "labels", "question": "q"}, "a classifier is asked nothing"),
        (
            ["a", "b"],
            {},
            {"answers": "labels", "columns": {"answer": "text"}},
            r"columns\.answer is not read",
        ),
        (
            ["a", "b"],
            {},
            {"answers": "words", "columns": {"pair": "text"}},
            r"columns\.pair is the second text",
        ),
        (["a", "b"], {"second": ["x", None]}, {"columns": {"pair": "second"}}, "column 'second': is empty"),
    ],
)
def test_labels_that_are_no_classes_are_one_sentence(tmp_path: Path, values, columns, settings, says) -> None:
    table = texts(tmp_path / "x.jsonl", values, **columns)
    with pytest.raises(ExperimentError, match=says):
        load(table, clients=1, **settings)


def test_many_classes_with_many_rows_or_names_are_classes(tmp_path: Path) -> None:
    assert len(labels(texts(tmp_path / "x.jsonl", [*range(30)] * 2))) == 30
    named = [str(i) for i in range(30)]
    assert labels(texts(tmp_path / "y.jsonl", [*range(30)]), labels=named) == tuple(named)


def test_rows_of_several_kinds_are_refused(tmp_path: Path) -> None:
    table = lines(
        tmp_path / "x.jsonl",
        [{"image": name, "text": "t", "label": i % 2} for i, name in enumerate([*files(tmp_path, 2), None])],
    )
    with pytest.raises(
        ExperimentError, match="one text, picture or sound a row, the same in all, and there are rows of"
    ):
        load(table, clients=1, columns={"question": "text"}, answers="labels")


def test_columns_of_a_conversation_or_an_answer_are_not_read_beside_labels(tmp_path: Path) -> None:
    table = image_table(4, label=["a", "b"] * 2, caption=["w", "x", "y", "z"])
    table.to_parquet(tmp_path / "x.parquet")
    assert [s.answer for s in rows(tmp_path / "x.parquet", answers="labels")] == ["a", "b", "a", "b"]
    assert [s.answer for s in rows(tmp_path / "x.parquet")] == ["w", "x", "y", "z"]
