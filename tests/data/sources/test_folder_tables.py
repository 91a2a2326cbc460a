"""The source `folder` with clients whose data stand in other formats than the plain metadata.jsonl."""

from pathlib import Path

import datasets
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import parse_source
from tests.data.tables.tables import files, image_table, lines

QA = {"question": "what?", "answer": "a"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def load(root: Path, **fields: object):
    return parse_source({"source": "folder", "path": root, **fields}).load(0)


def test_every_client_in_its_own_format(tmp_path: Path) -> None:
    image_table(4, answer=["a"] * 4, colour=["red"] * 4).to_parquet(tmp_path / "parquet/rows.parquet")
    image_table(4, answer=["a"] * 4).save_to_disk(tmp_path / "saved")
    names = files(tmp_path / "csv", 4)
    (tmp_path / "csv/metadata.csv").write_text("file_name,text\n" + "".join(f"{n},a\n" for n in names))
    talk = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a"}]
    lines(
        tmp_path / "llava/talks.jsonl",
        [{"image": n, "conversations": talk} for n in files(tmp_path / "llava", 4)],
    )
    lines(
        tmp_path / "captions/metadata.jsonl",
        [{"file_name": n, "text": "a"} for n in files(tmp_path / "captions", 4)],
    )
    lines(tmp_path / "plain/metadata.jsonl", [{"image": n, **QA} for n in files(tmp_path / "plain", 4)])
    clients = load(tmp_path)
    assert [c.name for c in clients] == ["captions", "csv", "llava", "parquet", "plain", "saved"]
    assert [(len(c.train), len(c.test), c.holds) for c in clients] == [(3, 1, ("image",))] * 6
    assert {s.answer for c in clients for s in c.train} == {"a"}
    assert set(clients[4].train[0].meta) == {"line"}
    assert any(note.endswith("parquet: columns not read: colour") for note in clients[3].notes)


def test_one_table_per_client(tmp_path: Path) -> None:
    for name in ("north", "south"):
        lines(tmp_path / f"{name}.jsonl", [{**QA, "answer": i} for i in range(5)])
    (tmp_path / "README.md").write_text("about")
    clients = load(tmp_path)
    assert [(c.name, len(c.train), len(c.test)) for c in clients] == [("north", 4, 1), ("south", 4, 1)]
    lines(tmp_path / "north.json", [QA])
    with pytest.raises(ExperimentError, match="holds two tables of a client 'north'"):
        load(tmp_path)


def test_named_columns_and_a_common_question_reach_every_client(tmp_path: Path) -> None:
    lines(tmp_path / "ann/metadata.jsonl", [{"image": n, "words": 3} for n in files(tmp_path / "ann", 3)])
    (client,) = load(tmp_path, columns={"answer": "words"}, question="how many?")
    assert {(s.question, s.answer) for s in client.train} == {("how many?", "3")}


def test_a_clients_table_stays_in_its_folder(tmp_path: Path) -> None:
    files(tmp_path / "bob", 1)
    for inner in ("x.jsonl", "deep/x.jsonl"):
        table = lines(tmp_path / "ann" / inner, [{"image": "../bob/0.png", **QA}])
        with pytest.raises(ExperimentError, match="leads out of the client's folder; copy the file into it"):
            load(tmp_path)
        table.unlink()
