"""`fedloom plan` against the run that follows it: peak memory and seconds, each command in a process of its own.

`python -m benchmarks plan [FILE [ROW] [SETTING=VALUE ...]] [-- FILE ...]`; else the experiments below. The first run
that file, row and settings describe is planned, then run. Processor seconds are those of all cores, which other work on
the machine disturbs less than the clock.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

EXPERIMENTS: tuple[tuple[str, ...], ...] = (
    ("experiments/uniflow/quickstart.yaml", "FedA²-LoRA"),
    ("experiments/uniflow/table4.yaml", "FedSA-LoRA"),
    ("experiments/pfedmma/main.yaml", "pFedMMA"),
    ("experiments/fedma/scenarios.yaml", "Fed-CMP"),
    ("experiments/fedmmkt/main.yaml", "FedMMKT"),
)
"""One experiment file each, then a row and settings."""
LIMIT = "240"
"""Seconds for a probe, four times the default, because a busy machine does less in a second."""


def main(arguments: list[str]) -> None:
    """Plan and run each experiment, and print a line of each as it is through."""
    chosen = [part.split("\0") for part in "\0".join(arguments).split("\0--\0")] if arguments else EXPERIMENTS
    print(
        "| experiment | memory: plan | run | ratio | s: plan | run | ratio | processor s: plan | run | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for file, *rest in chosen:
        print(line(file, rest), flush=True)


def line(file: str, rest: Sequence[str]) -> str:
    """The table's line of one experiment."""
    with TemporaryDirectory() as folder:
        single = str(Path(folder) / "single.yaml")
        # In a process of its own: a child's peak begins with what its parent holds.
        _ended(["-c", _SINGLE, file, single, *rest])
        planned = json.loads(_ended(["-m", "fedloom", "plan", single, "--json", "--limit", LIMIT]).stdout)
        began = time.perf_counter()
        run = _ended(["-m", "fedloom", "run", single, "--out", str(Path(folder) / "run")])
        clock = time.perf_counter() - began
    whole = planned[0]["seconds"]["whole"]
    pairs = (
        (planned[0]["memory"]["peak"] / 1e6, run.peak / 1e6, " MB"),
        (whole["clock"], clock, ""),
        (whole["processor"], run.processor, ""),
    )
    cells = [f"{plan:.0f}{unit} | {real:.0f}{unit} | {plan / real:.2f}" for plan, real, unit in pairs]
    return f"| {Path(file).parent.name}/{Path(file).stem} {' '.join(rest)} | " + " | ".join(cells) + " |"


class _Ended:
    """A finished command: what it printed, its peak memory in bytes, and its seconds of processor time."""

    def __init__(self, stdout: str, usage: Any) -> None:
        self.stdout = stdout
        self.peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self.processor = usage.ru_utime + usage.ru_stime


_SINGLE = """
import sys
from pathlib import Path
import yaml
from fedloom.experiment.settings import load_rows
file, out, *rest = sys.argv[1:]
rows = [word for word in rest if "=" not in word]
first = load_rows(file, [word for word in rest if "=" in word], only=rows)[0]
Path(out).write_text(yaml.safe_dump(first.as_dict(), sort_keys=False))
"""
"""Writes the first run of a file as a file of its own."""


def _ended(arguments: Sequence[str]) -> _Ended:
    """Run Python with these arguments. Ends this process where that fails."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments[1:])} ended with exit code {process.returncode}")
    return _Ended(text, usage)
