"""GLUE from parquet files: columns, fixed labels, mixes, and the one sentence for each mistake."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import glue, text
from tests.data.sources.label_counts import label_counts


def write(path: Path, task: str, split: str, labels: list, first: int = 0, **extra: list) -> Path:
    """A parquet file of numbered sentences."""
    columns = {c: [f"{c} {first + i}" for i in range(len(labels))] for c in glue.TASKS[task].columns}
    path = path / task
    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "label": labels, **extra}), path / f"{split}.parquet")
    return path


@pytest.mark.parametrize("task", glue.TASKS)
def test_every_task_is_read_from_parquet(tmp_path: Path, task: str) -> None:
    known = glue.TASKS[task]
    classes = list(range(len(known.labels)))
    write(tmp_path, task, "train-00000-of-00002", classes * 8, idx=list(range(len(classes) * 8)))
    write(tmp_path, task, "train-00001-of-00002", classes * 8, first=len(classes) * 8)
    write(tmp_path, task, f"{known.validation}-00000-of-00001", classes * 4)
    write(tmp_path, task, "test-00000-of-00001", [-1] * 3)  # GLUE hides the labels of its test split
    size = len(classes) * 2
    data = text.TextSource(
        task=task, path=tmp_path, clients={"text": 2}, train=size, test=size, dirichlet=None
    )
    clients = data.load(0)
    for client in clients:
        assert set(label_counts(client.train).values()) == {2}
        assert set(label_counts(client.test).values()) == {2}
        for part, samples in (("train", client.train), ("test", client.test)):
            for sample in samples:
                row = int(sample.uid.rsplit("/", 1)[1])
                assert sample.uid == f"glue/{task}/{part}/{row}"
                assert sample.question == f"{known.columns[0]} {row}"
                assert sample.meta["pair"] == (f"{known.columns[1]} {row}" if known.columns[1:] else None)
                assert sample.answer == known.labels[row % len(classes)]
                assert sample.meta["labels"] == list(known.labels)
    uids = [s.uid for c in clients for part in (c.train, c.test) for s in part]
    assert len(set(uids)) == len(uids)
    assert data.load(0) == clients
    assert data.load(1) != clients


def test_labels_come_from_the_task_and_not_from_what_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "mnli", "train", [2] * 6)
    write(tmp_path, "mnli", "validation_matched", [2] * 6)
    (client,) = text.text_clients("mnli", 1, 3, 3, None, 0, tmp_path)
    assert {s.answer for s in client.train} == {"contradiction"}
    assert label_counts(client.train) == {"entailment": 0, "neutral": 0, "contradiction": 3}


def test_label_words_are_read_like_label_numbers(tmp_path: Path) -> None:
    write(tmp_path, "rte", "train", ["not_entailment", "entailment"])
    assert glue.read_glue("rte", "train", tmp_path).labels == [1, 0]


def test_train_and_test_have_one_mix(tmp_path: Path) -> None:
    write(tmp_path, "rte", "train", [0, 1] * 200)
    write(tmp_path, "rte", "validation", [1, 0] * 100)
    for client in text.text_clients("rte", 2, 80, 40, 0.5, 5, tmp_path):
        train, test = label_counts(client.train), label_counts(client.test)
        assert abs(train["entailment"] / 80 - test["entailment"] / 40) < 1 / 40 + 1 / 80


def test_a_whole_task_is_dealt_to_clients_of_different_sizes(tmp_path: Path) -> None:
    write(tmp_path, "rte", "train", [0, 1, 1] * 67)
    write(tmp_path, "rte", "validation", [1, 0] * 40)
    whole = {"task": "rte", "path": tmp_path, "train": None, "test": None}
    data = text.TextSource(**whole, partition={"kind": "dirichlet", "beta": 0.5})
    clients = data.load(1)
    assert [c.name for c in clients] == ["client-01", "client-02", "client-03"]
    rows = {part: [s.uid for c in clients for s in getattr(c, part)] for part in ("train", "test")}
    assert sorted(rows["train"]) == sorted(f"glue/rte/train/{i}" for i in range(201))
    assert sorted(rows["test"]) == sorted(f"glue/rte/test/{i}" for i in range(80))
    sizes = {len(c.train) for c in clients}
    assert len(sizes) > 1
    for client in clients:  # one draw for both parts
        for label in glue.TASKS["rte"].labels:
            pools = ((client.train, 201, {"entailment": 67}), (client.test, 80, {"entailment": 40}))
            train, test = (
                label_counts(part)[label] / known.get(label, size - known["entailment"])
                for part, size, known in pools
            )
            assert abs(train - test) < 0.05


def test_a_whole_task_needs_glue_and_a_partition(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train: all samples of a task need a data\.partition"):
        text.TextSource(task="rte", path=tmp_path, train=None)
    with pytest.raises(ValueError, match="test: the task follows has no last sample"):
        text.TextSource(task="follows", test=None, partition={"kind": "iid"})


def test_a_small_pool_is_named(tmp_path: Path) -> None:
    write(tmp_path, "sst2", "train", [0, 1] * 10)
    write(tmp_path, "sst2", "validation", [0, 1])
    with pytest.raises(
        ExperimentError, match=r"data\.test: the 2 clients' label mixes ask for .* the task has 1"
    ):
        text.text_clients("sst2", 2, 4, 4, None, 0, tmp_path)


def test_mistakes_in_files_are_one_sentence(tmp_path: Path) -> None:
    def says(expected: str) -> None:
        with pytest.raises(ExperimentError) as caught:
            glue.read_glue("qnli", "train", tmp_path)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)

    says("there is no file")
    (tmp_path / "qnli").mkdir()
    (tmp_path / "qnli" / "train.parquet").write_text("no parquet")
    says("is no parquet file")
    pq.write_table(pa.table({"question": ["a"], "label": [0]}), tmp_path / "qnli" / "train.parquet")
    says("lacks the column sentence; its columns are question, label")
    write(tmp_path, "qnli", "train", [0, -1])
    says("row 1 of train has the label -1; right are 0 to 1, or entailment, not_entailment")


class Hub:
    """Stands for a split of the hub's data set."""

    def __init__(self, names: list[str]) -> None:
        self.features = {"label": SimpleNamespace(names=names)}

    def __getitem__(self, column: str) -> list:
        return {"label": [0, 1]}.get(column, [f"{column} 0", f"{column} 1"])


def test_the_hub_is_asked_and_its_label_order_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str, split: str) -> Hub:
        asked.append((*names, split))
        return Hub(["entailment", "neutral", "contradiction"])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    rows = glue.read_glue("mnli", "test", None)
    assert asked == [("nyu-mll/glue", "mnli", "validation_matched")]
    assert rows == glue.Split((["premise 0", "premise 1"], ["hypothesis 0", "hypothesis 1"]), [0, 1])
    with pytest.raises(ExperimentError, match="entailment, not_entailment is right"):
        glue.read_glue("rte", "train", None)


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*names: str, split: str) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ExperimentError, match=r"cannot be read \(no route\); name a folder .* in data\.path"):
        glue.read_glue("rte", "train", None)
