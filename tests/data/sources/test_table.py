"""The source `table`: clients by column or by number, own files that are never passed over, and published data by their shape."""

import json
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.data.sources import SOURCES, parse_source
from fedloom.experiment.settings import load_rows
from tests.data.tables.tables import files, image_table, lines, load, wav

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def texts(path: Path, count: int, **columns: list) -> Path:
    """A table of questions and answers."""
    return lines(
        path,
        [
            {"question": f"q{i}", "answer": f"a{i}", **{n: v[i] for n, v in columns.items()}}
            for i in range(count)
        ],
    )


def test_rows_are_dealt_to_a_number_of_clients(tmp_path: Path) -> None:
    file = texts(tmp_path / "x.jsonl", 20)
    clients = load(file, clients=3)
    held = [s.uid for c in clients for s in (*c.train, *c.test)]
    assert [c.name for c in clients] == ["client-01", "client-02", "client-03"]
    assert sorted(held, key=int) == [str(i + 1) for i in range(20)]
    assert [len(c.train) + len(c.test) for c in clients] == [7, 7, 6]
    assert all(c.test for c in clients)
    other = parse_source({"source": "table", "path": str(file), "clients": 3}).load(1)
    assert [s.uid for s in other[0].train] != [s.uid for s in clients[0].train]


def test_rows_about_one_picture_stay_with_one_client_and_part(tmp_path: Path) -> None:
    table = image_table(5, answer=list("abcde"))
    datasets.concatenate_datasets([table] * 4).to_parquet(tmp_path / "x.parquet")
    clients = load(tmp_path / "x.parquet", clients=2)
    parts = [{s.answer for s in part} for c in clients for part in (c.train, c.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 5


def test_declared_test_rows_are_dealt_too(tmp_path: Path) -> None:
    file = texts(tmp_path / "x.jsonl", 16, split=["train"] * 10 + ["test"] * 6)
    clients = load(file, clients=2)
    assert [(len(c.train), len(c.test)) for c in clients] == [(5, 3), (5, 3)]


def test_most_samples_of_a_client(tmp_path: Path) -> None:
    file = texts(tmp_path / "x.jsonl", 40)
    (first, second) = load(file, clients=2, train=5, test=90)
    assert (len(first.train), len(second.train)) == (5, 5)
    assert (len(first.test), len(second.test)) == (4, 4)
    assert "data.test: 90 samples a client are more than the rows give; clients have 4 to 4" in first.notes


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"clients": 0}, "data.clients"),
        ({"clients": {"image": -1}}, "at least one client and no negative count"),
        ({"clients": 2, "columns": {"client": "x"}}, "leave one out"),
        ({"column": {}}, "did you mean columns?"),
        ({"columns": {"picture": "x"}}, "data.columns.picture"),
        ({"path": []}, "data.path"),
        ({"path": ""}, "data.path"),
    ],
)
def test_settings_that_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        parse_source({"source": "table", "path": "x", **fields})
    assert says in str(caught.value)


def test_clients_by_what_a_row_holds(tmp_path: Path) -> None:
    names = [*files(tmp_path, 6), *files(tmp_path, 6, "wav")]
    records = [
        {"image" if n.endswith("png") else "audio": n, "question": "what?", "answer": n} for n in names
    ]
    lines(tmp_path / "x.jsonl", [*records, {"question": "q", "answer": "a"}])
    clients = load(tmp_path, clients={"image": 2, "audio": 1})
    assert [(c.name, c.holds) for c in clients] == [
        ("audio-01", ("audio",)), ("image-01", ("image",)), ("image-02", ("image",)),
    ]  # fmt: skip
    assert any("1 rows that hold text are left out" in note for note in clients[0].notes)
    with pytest.raises(
        ExperimentError, match="asks for clients that hold both, and the rows hold audio, image, text"
    ):
        load(tmp_path, clients={"both": 1})


@pytest.mark.parametrize("name", [*SOURCES, None])
@pytest.mark.parametrize("more", [{}, {"dataset": "digits"}, {"task": "rte"}])
def test_own_files_that_are_not_there_never_give_way_to_generated_samples(
    name: str | None, more: dict
) -> None:
    fields = {"path": "/nowhere/at/all", **more, **({} if name is None else {"source": name})}
    with pytest.raises(ExperimentError, match=r"path|/nowhere/at/all|data\.(dataset|task) is not read"):
        parse_source(fields).load(0)


def test_the_data_command_shows_guess_and_deal(tmp_path: Path) -> None:
    file = texts(tmp_path / "x.jsonl", 8, who=["ann", "bob"] * 4)
    yaml = f"method: fedavg-lora\ndata: {{path: {file}, columns: {{client: who}}}}\n"
    (tmp_path / "e.yaml").write_text(yaml)
    shown = CliRunner().invoke(app, ["data", str(tmp_path / "e.yaml"), "--show", "1"], catch_exceptions=False)
    assert "ann" in shown.output
    assert "columns guessed from their names: {question: question, answer: answer}" in shown.output


# Published data by their columns on the hub


def pandagpt(folder: Path, count: int) -> Path:
    """PandaGPT's visual instructions: a list of conversations, and the folder of pictures that they name."""
    names = files(folder / "images", count)
    talks = [
        {
            "image_name": name,
            "conversation": [
                {"from": "human", "value": "What is in the picture?"},
                {"from": "gpt", "value": f"A grey of {i}."},
                {"from": "human", "value": "Is it bright?"},
                {"from": "gpt", "value": "No."},
            ],
        }
        for i, name in enumerate(names)
    ]
    (folder / "pandagpt4_visual_instruction_data.json").write_text(json.dumps(talks))
    return folder


def heysquad(folder: Path, count: int) -> Path:
    """HeySQuAD (human): spoken questions in parquet files, answers as lists of spans, some questions impossible."""
    for part, first, size in (("train", 0, count), ("validation", count, count // 4)):
        numbers = range(first, first + size)
        spans = [[] if i % 5 == 0 else [{"answer_start": i, "text": f"in {1900 + i}"}] for i in numbers]
        table = datasets.Dataset.from_dict(
            {
                "audio": [{"bytes": wav(i), "path": f"{i}.wav"} for i in numbers],
                "transcription": ["when"] * size,
                "question": [f"When was {i}?" for i in numbers],
                "context": ["Once."] * size,
                "answers": spans,
                "is_impossible": [not s for s in spans],
                "id": [str(i) for i in numbers],
                "plausible_answers": [[{"answer_start": 0, "text": "never"}]] * size,
            }
        ).cast_column("audio", datasets.Audio())
        table.to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    return folder


def test_table_3_runs_on_published_data_by_its_path_alone(tmp_path: Path) -> None:
    paths = [pandagpt(tmp_path / "pandagpt", 40), heysquad(tmp_path / "heysquad", 60)]
    override = f"data.path={json.dumps([str(p) for p in paths])}"
    row, *others = load_rows(ROOT / "experiments/uniflow/table3.yaml", ["size=small", override])
    assert {str(r.data) for r in others} == {str(row.data)}
    clients = row.task.clients(row.setup)
    assert [c.name for c in clients] == [
        f"{kind}-{k:02d}" for kind in ("audio", "image") for k in range(1, 11)
    ]
    assert {c.holds for c in clients if c.name.startswith("audio")} == {("audio",)}
    assert all(c.train and c.test for c in clients)
    heard, seen = clients[0].train[0], clients[-1].train[0]
    assert heard.answer.startswith("in 19")
    assert heard.question.startswith("When was ")
    assert heard.modalities["audio"].shape == (1600,)
    assert [t.role for t in seen.turns] == ["user", "assistant"] * 2
    assert seen.answer == "No."
    said = "\n".join(clients[0].notes)
    assert f"{paths[1]}: 15 of 75 rows have no answer and are left out" in said
    assert f"{paths[1]}: validation rows are the test rows" in said
    assert "data.train: 400 samples a client are more than the rows give" in said


def test_a_file_that_says_what_its_answers_are_is_read_without_its_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened(*told: object) -> None:
        raise AssertionError(f"the data are opened: {told}")

    monkeypatch.setattr("fedloom.data.tables.read.open_tables", opened)
    (experiment,) = load_rows("experiments/real/spoken-stamps.yaml")
    assert experiment.task.name == "question-answering"
    with pytest.raises(AssertionError, match="the data are opened"):
        load_rows("experiments/real/spoken-stamps.yaml", ["data.answers=auto"])
