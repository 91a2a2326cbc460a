"""A small repository: one experiment file, a paper's figures, and a finished study of it, made by hand."""

import json
from pathlib import Path

import yaml
from click.testing import Result
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.experiment.settings import load_rows
from tests.experiment.report.report_folders import write_lines

EXPERIMENT = """\
# fedloom run experiments/small/table1.yaml --out runs/table1
name: table1
description: Two rows of one client.
rounds: 1
data: {clients: {image: 1}, train: 8, test: 8}
method: fedavg-lora
columns: [global/image/exact_match, bytes_up]
rows:
  LoRA: {}
  FedA²-LoRA: {method.name: feda2-lora}
"""

PAPERS = """\
small:
  title: A small paper
  intro: One table.
  tables:
    - place: Table 1
      title: the only one
      experiment: table1
      differs: everything is small.
      columns: {Acc: global/image/exact_match, time: null}
      rows:
        LoRA: [64.5, [1.25, 0.5]]
        FedA²-LoRA: [70.0, null]
"""

HITS = {"LoRA": 2, "FedA²-LoRA": 7}


def ledger(*args: object) -> Result:
    """The outcome of `fedloom ledger`."""
    return CliRunner().invoke(app, ["ledger", *map(str, args)])


def make_repository(root: Path) -> Path:
    """`experiments/` and `docs/reproduction/papers.yaml` below `root`."""
    for name, text in (
        ("experiments/small/table1.yaml", EXPERIMENT),
        ("docs/reproduction/papers.yaml", PAPERS),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def make_study(
    root: Path, *overrides: str, seeds: tuple[int, ...] = (0, 1, 2), commit: str = "a" * 12
) -> Path:
    """`runs/table1`: the rows of the file with these overrides, 8 test samples each."""
    folder, entries = root / "runs/table1", []
    listed = ",".join(map(str, seeds))
    for experiment in load_rows(root / "experiments/small/table1.yaml", [*overrides, f"seeds=[{listed}]"]):
        row, seed = experiment.row or "LoRA", experiment.seed
        path = f"{'a2' if '²' in row else 'lora'}/seed-{seed}"
        (folder / path).mkdir(parents=True)
        record = experiment.as_dict() | {"versions": {"fedloom": "0.1.0", "commit": commit}}
        (folder / path / "experiment.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
        for name in ("metrics.jsonl", "ledger.jsonl"):
            (folder / path / name).write_text("")
        hits = HITS[row]
        summary = {"name": "table1", "row": row, "method": experiment.method.name, "seed": seed, "rounds": 1}
        summary |= {"seconds": 30.0, "status": "complete", "bytes_up": 1000}
        summary |= {"metrics": {"global/image/exact_match": hits / 8}}
        (folder / path / "summary.json").write_text(json.dumps(summary))
        write_lines(
            folder / path / "predictions-end.jsonl",
            [
                {"client": "image-01", "kind": "image", "uid": str(i), "reference": "red"}
                | {"prediction": "red" if i < hits else "blue", "tokens": 1, "correct": int(i < hits)}
                for i in range(8)
            ],
        )
        entries.append({"row": row, "seed": seed, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder
