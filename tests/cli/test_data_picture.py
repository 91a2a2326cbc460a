"""The deal in the terminal and in the report: counts, shades, 80 columns, and what is not drawn."""

from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from fedloom.cli import deal_picture
from fedloom.cli.main import app
from fedloom.experiment.run import run
from tests.data.sources.test_partition import topics


def drawn(counts: dict[str, dict[str, int]], labels: list[str], monkeypatch) -> list[str]:  # type: ignore[no-untyped-def]
    console = Console(width=80, record=True, no_color=True)
    monkeypatch.setattr(deal_picture, "out", console)
    deal_picture.draw("label", counts, labels)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_cell_shows_the_count_and_its_share_of_the_largest(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    lines = drawn({"north": {"cat": 8, "dog": 2}, "south": {"dog": 5}}, ["cat", "dog"], monkeypatch)
    assert "samples by label, of at most 8" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:] if line}
    assert rows["client"] == ["cat", "dog"]
    assert rows["north"] == ["█", "8", "░", "2"]
    assert rows["south"] == ["0", "▓", "5"]


def test_many_clients_and_labels_are_abridged_in_eighty_columns(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    labels = [f"label number {i}" for i in range(30)]
    counts = {f"a client with a long name {i}": dict.fromkeys(labels, 1234) for i in range(23)}
    lines = drawn(counts, labels, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert sum("1234" in line for line in lines) == 20 + 1
    assert lines[-1] == "not drawn: 3 further clients and 25 further labels"


def test_the_data_command_draws_the_deal_and_counts_cut_samples(tmp_path: Path) -> None:
    table = topics(tmp_path / "x.jsonl")
    file = tmp_path / "e.yaml"
    file.write_text(
        f"method: fedavg-lora\nmodel: {{max_text_tokens: 12}}\n"
        f"data: {{source: table, path: {table}, clients: 2, partition: {{kind: dirichlet, over: topic, beta: 100}}}}\n"
    )
    shown = CliRunner().invoke(app, ["data", str(file), "--show", "0", "--tokens"])
    assert shown.exit_code == 0, shown.output
    assert "samples by topic" in shown.output
    assert "client-01" in shown.output
    assert "train samples will be cut to fit the model" in shown.output


def test_the_report_draws_the_deal(tmp_path: Path) -> None:
    from fedloom.experiment.settings import load_rows

    file = tmp_path / "e.yaml"
    file.write_text(
        "method: fedavg-lora\nrounds: 0\ndata: {clients: {image: 1, both: 1}, train: 9, test: 3}\n"
        "evaluation: {controls: false, samples: 0}\n"
    )
    [experiment] = load_rows(file)
    result = run(experiment, tmp_path / "run")
    kinds = {row["client"]: row["kinds"] for row in result.summary["clients"]}
    assert kinds["image-01"] == {"image": 12}
    assert sum(kinds["both-01"].values()) == 12
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Who holds what" in page
    assert "samples by kind, darkest: 12" in page
