"""`python -m benchmarks NAME [arguments]` runs one row; without a name, all rows run and one table is printed.

`--out FILE` keeps the ratios, and `--against FILE` prints what got slower than a kept run; both stand before the name.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.kept_run import TOLERANCE, Measured, read, slower, write
from benchmarks.report import Row, surroundings, table

ROWS = (
    "cohort",
    "aggregation",
    "features",
    "canonical",
    "memory",
    "uploads",
    "scale",
    "overhead",
    "gpu",
    "flower",
    "pfl_research",
    "nvflare_simulator",
)
"""Modules of this package; `main(arguments)` measures, prints, and returns its rows (or nothing)."""
PLOTS = (
    "checkpointing",
    "cohort_size",
    "further_client",
    "loading",
    "scaling",
    "clip",
    "clip_evaluation",
    "real_round",
    "deploy",
    "missing",
    "plan",
    "samples",
    "secure_sum",
    "real_base",
    "gpu_proof",
)
"""Modules run by name only: a plot, tables without a rival, and rows that need files or a device of their own."""


def measured(name: str, arguments: list[str]) -> tuple[Measured, list[Row]]:
    """A benchmark's rows, and what of them is kept."""
    rows = import_module(f"benchmarks.{name}").main(arguments) or []
    return Measured.of(name, arguments, rows), rows


def main(words: list[str] | None = None) -> int:
    """Run what is asked for. Exit code 1 where --against finds something."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the ratios in this JSON file")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help=f"print what got slower than a kept run by more than {TOLERANCE:.0%}; without a name, its benchmarks run again",
    )
    parser.add_argument(
        "name", nargs="?", choices=(*ROWS, *PLOTS), metavar="NAME", help=", ".join((*ROWS, *PLOTS))
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="those of the benchmark; see its first lines"
    )
    chosen = parser.parse_args(words)
    try:
        kept = [] if chosen.against is None else read(chosen.against, (*ROWS, *PLOTS))
    except ValueError as error:
        parser.error(str(error))
    todo: list[tuple[str, list[str]]] = [(name, []) for name in ROWS]
    if chosen.name is not None:
        todo = [(chosen.name, chosen.arguments)]
        kept = [m for m in kept if m.benchmark == chosen.name]
    elif kept:
        todo = [(m.benchmark, list(m.arguments)) for m in kept]
    runs = [measured(*each) for each in todo]
    if chosen.name is None:
        print("\n" + table([row for _, rows in runs for row in rows]) + "\n\n" + surroundings())
    if chosen.out is not None:
        write(chosen.out, [run for run, _ in runs])
    told: list[str] = []
    if chosen.against is not None:
        told = slower(kept, [run for run, _ in runs])
        print("\n" + "\n".join(told or [f"nothing got slower by more than {TOLERANCE:.0%}"]))
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
