"""Data sets of the hub: downloaded or streamed, without a network by `datasets` reading files of this machine."""

from pathlib import Path

import datasets
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.tables.hub import may_be_on_hub
from tests.data.tables.tables import image_table, lines, load, rows


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The calls of `load_dataset`; every name gives a data set of 12 training and 4 test rows."""
    for part, count in (("train", 12), ("test", 4)):
        table = image_table(count, answer=[f"{part}{i}" for i in range(count)])
        table.to_parquet(tmp_path / "hub" / f"{part}.parquet")
    load_dataset, calls = datasets.load_dataset, []

    def local(name: str, config: str | None, *, streaming: bool) -> object:
        calls.append((name, config, streaming))
        return load_dataset("parquet", data_dir=str(tmp_path / "hub"), streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", local)
    return calls


def test_a_name_on_the_hub_is_read_with_its_configuration_and_splits(asked: list[tuple]) -> None:
    (client,) = load("someone/data", clients=1, config="en")
    assert set(asked) == {("someone/data", "en", False)}  # at first for its columns, then from the cache
    assert (len(client.train), len(client.test)) == (12, 4)
    assert {s.answer for s in client.test} == {f"test{i}" for i in range(4)}


def test_a_streamed_set_is_copied_as_far_as_asked(asked: list[tuple]) -> None:
    (client,) = load("someone/data", clients=1, streaming=True, take=3)
    assert asked == [("someone/data", None, True)]
    assert [s.answer for s in client.train] == ["train0", "train1", "train2"]
    assert len(client.test) == 3
    assert int(client.train[2].modalities["image"].unique()) == 20
    (client,) = load("someone/data", clients=1, streaming=True)
    assert len(client.train) == 12


def test_streaming_and_configurations_are_the_hubs_alone(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [{"question": "q", "answer": "a"}])
    for fields in ({"streaming": True}, {"config": "en"}):
        with pytest.raises(ExperimentError, match=f"data.{next(iter(fields))} is about data sets on the hub"):
            rows(file, **fields)


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("squad", True),
        ("a-b/c.d_e", True),
        ("/a/b", False),
        ("./a", False),
        ("a/b/c", False),
        ("a.csv", False),
        ("../a", False),
    ],
)
def test_names_that_may_be_on_the_hub(path: str, may: bool) -> None:
    assert may_be_on_hub(path) == may
