"""Exact match of a run's answers by modality and kind of question, before and after training.

Run: python scripts/by_question.py RUN [RUN ...]; a study's folder gives all of its runs.
The kind of a question is its first two words. The questions are read from the run's data, a folder with a metadata.jsonl for each
client. A run without a common model has the answers of each client's own model on its own samples.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import yaml

from fedloom.tasks.metrics import normalise


def questions(run: Path) -> dict[str, str]:
    """The question of every line of the run's data, by `<client>/<line>`, counted from 1."""
    settings = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    found = {}
    for table in sorted(Path(settings["data"]["path"]).glob("*/metadata.jsonl")):
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            found[f"{table.parent.name}/{number}"] = json.loads(line)["question"]
    return found


def shares(run: Path, moment: str, asked: dict[str, str]) -> dict[tuple[str, str], tuple[int, float]]:
    """(modality, first words) to the number of answers and the share that match exactly."""
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    file = run / f"predictions-{moment}.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        row = json.loads(line)
        if row["prediction"] is not None:
            words = " ".join(asked[row["uid"]].split()[:2])
            kind = "is it" if row["kind"] == "text" else words
            hits[row["kind"], kind].append(normalise(row["prediction"]) == normalise(row["reference"]))
    return {key: (len(values), fmean(values)) for key, values in hits.items()}


def runs_in(folder: Path) -> list[Path]:
    """The folder of every run in a study, or of the one run. Exits with a sentence where there is none."""
    found = sorted(path.parent for path in folder.glob("**/experiment.yaml"))
    if not found:
        sys.exit(f"{folder} holds no run: name a folder that `fedloom run` wrote")
    return found


def main(folders: list[Path]) -> None:
    """A line for each run, modality and kind of question."""
    for run in (run for folder in folders for run in runs_in(folder)):
        asked = questions(run)
        start, end = (shares(run, moment, asked) for moment in ("start", "end"))
        for key in sorted({*start, *end}):
            found = [side[key] for side in (start, end) if key in side]
            before, after = (f"{side[key][1]:.1%}" if key in side else "–" for side in (start, end))
            print(f"{run}  {' '.join(key)}  n={found[0][0]}  {before} -> {after}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
