"""`fedloom init`: a report that fits a terminal, and a file that runs as it is."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.run import run
from fedloom.experiment.settings import load_rows
from tests.data.tables.tables import files, lines, write_stamps


def init(*words: object) -> str:
    """What the command prints; its errors are raised."""
    return CliRunner().invoke(app, ["init", *map(str, words)], catch_exceptions=False).output


def _silos(root: Path) -> Path:
    for client in ("a", "b"):
        names = files(root / client, 4)
        records = [{"image": n, "question": "what is it?", "answer": f"a {n}"} for n in names]
        lines(root / client / "metadata.jsonl", records)
    return root


def _classes(root: Path) -> Path:
    for name in ("cat", "dog", "owl"):
        files(root, 5, under=name)
    return root


def _table(root: Path) -> Path:
    rows = [f"c{i % 2},q {i}?,a {i}" for i in range(8)]
    root.mkdir()
    (root / "visits.csv").write_text("\n".join(["hospital,question,answer", *rows]) + "\n", encoding="utf-8")
    return root / "visits.csv"


@pytest.mark.parametrize("write", [write_stamps, _silos, _classes, _table])
def test_the_file_runs_as_it_is(tmp_path: Path, write) -> None:
    file = tmp_path / "my.yaml"
    output = init(write(tmp_path / "own"), "--out", file)
    report = output.splitlines()[:-2]
    assert len(report) <= 25
    assert max(map(len, report)) <= 80
    (experiment,) = load_rows(file, ["rounds=1"])
    assert run(experiment, tmp_path / "run").summary["status"].startswith("complete")


def test_report_and_file_of_captions(tmp_path: Path) -> None:
    stamps, file = write_stamps(tmp_path / "stamps"), tmp_path / "my.yaml"
    output = init(stamps, "--out", file)
    assert "captions beside them: 5 usable samples" in output
    assert "animals 3, food 2" in output
    assert "not read: audio_desc_fr 6, subfolder 2" in output
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert written["data"] == {
        "source": "table",
        "path": str(stamps),
        "columns": {"image": "image", "answer": "text", "client": "folder"},
        "question": "what is in the picture?",
        "test_share": 0.2,
    }
    assert "# model: {native: HuggingFaceTB/SmolVLM-256M-Instruct}" in file.read_text(encoding="utf-8")


def test_an_unusable_file_is_said_and_left_out(tmp_path: Path) -> None:
    names = files(tmp_path, 5)
    (tmp_path / names[0]).write_bytes(b"no picture")
    lines(tmp_path / "metadata.jsonl", [{"file_name": n, "text": "a thing"} for n in names])
    output = init(tmp_path, "--out", tmp_path / "my.yaml")
    assert "unusable  1 of 5 samples are left out" in output
    data = load_rows(tmp_path / "my.yaml")[0].data
    assert (data.skip_bad, 0.2 <= data.max_skipped < 0.3) == (True, True)


def test_nothing_is_overwritten_unless_forced(tmp_path: Path) -> None:
    table, file = _table(tmp_path / "own"), tmp_path / "my.yaml"
    file.write_text("mine\n", encoding="utf-8")
    with pytest.raises(
        ExperimentError, match=r"my\.yaml exists; name another file with --out, or write over it"
    ):
        init(table, "--out", file)
    assert file.read_text(encoding="utf-8") == "mine\n"
    init(table, "--out", file, "--force")
    assert file.read_text(encoding="utf-8").startswith("# fedloom run ")


@pytest.mark.parametrize(
    "name", ["a: b", "no", "1.5", "1e3", "über uns", "#x", "a, b", "é\u2028{", "😀", 'say "x"', "a #b"]
)
def test_odd_names_of_files_and_columns_come_back_as_they_are(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    header = ["user", "question", "answer", f"{name}\n: [", f"{name} too"]
    table = [dict(zip(header, (f"u{i % 2}", f"q {i}?", f"a {i}", "x", "y"), strict=True)) for i in range(4)]
    lines(folder / "x.jsonl", table)
    init(folder / "x.jsonl", "--out", tmp_path / name / "my.yaml")
    (experiment,) = load_rows(tmp_path / name / "my.yaml")
    assert experiment.data.path == str(folder / "x.jsonl")
    assert experiment.data.columns.client == "user"
    assert {c.name for c in experiment.data.load(0)} == {"u0", "u1"}


def test_the_memory_is_that_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedloom.experiment.plan as plans
    from fedloom.experiment.plan.result import Memory

    asked = []

    def plan(experiment: object, **how: object) -> object:
        asked.append(experiment)
        return SimpleNamespace(memory=Memory(1, 2, 3, 4 * 10**9, 8 * 10**9, 8 * 10**9, "cpu"))

    monkeypatch.setattr(plans, "plan", plan)
    file = tmp_path / "my.yaml"
    table = _table(tmp_path / "own")
    assert "\nmemory " not in init(table, "--out", file)
    assert not asked
    output = init(table, "--out", file, "--force", "--plan")
    assert "memory    It fits: 4.00 GB of 8.00 GB of memory." in output
    assert asked == load_rows(file)
