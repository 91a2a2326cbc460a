"""Kept runs: the ratios of a run in a JSON file, and what got slower since."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Row, surroundings

TOLERANCE = 0.15
"""A ratio that fell by more than this share got slower; less is within what a quiet machine scatters."""


@dataclass(frozen=True)
class Measured:
    """A benchmark, its arguments, and the ratio of each of its rows; None where it was not measured."""

    benchmark: str
    arguments: tuple[str, ...]
    ratios: Mapping[str, float | None]

    @classmethod
    def of(cls, benchmark: str, arguments: Sequence[str], rows: Sequence[Row]) -> "Measured":
        """The measured ratios of rows."""
        ratios = {f"{row.name}: {row.what}, beside {row.rival}": row.ratio for row in rows}
        return cls(benchmark, tuple(arguments), ratios)


def write(path: Path, measured: Sequence[Measured]) -> None:
    """Keep a run."""
    runs = [{"benchmark": m.benchmark, "arguments": m.arguments, "ratios": dict(m.ratios)} for m in measured]
    text = json.dumps({"surroundings": surroundings(), "runs": runs}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path, known: Sequence[str]) -> list[Measured]:
    """The benchmarks of a kept run. Raises ValueError with a sentence for a file that holds none of the `known` ones."""
    try:
        runs = [_read_one(run) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; a file that --out wrote is right") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} holds no kept run; a file that --out wrote is right") from None
    for run in runs:
        if run.benchmark not in known:
            raise ValueError(f"{path}: there is no benchmark {run.benchmark}; known are {', '.join(known)}")
    return runs


def _read_one(run: Mapping[str, Any]) -> Measured:
    ratios = {str(n): None if r is None else float(r) for n, r in run["ratios"].items()}
    if not all(r is None or (math.isfinite(r) and r > 0) for r in ratios.values()):
        raise ValueError("ratios are positive numbers")
    return Measured(str(run["benchmark"]), tuple(map(str, run["arguments"])), ratios)


def slower(kept: Sequence[Measured], now: Sequence[Measured]) -> list[str]:
    """A sentence for each row that got slower by more than the tolerance, or that either run lacks."""
    told = []
    before = {(m.benchmark, m.arguments): m for m in kept}
    after = {(m.benchmark, m.arguments): m for m in now}
    for key in dict.fromkeys((*before, *after)):
        name = " ".join((key[0], *key[1]))
        if key not in after:
            told.append(f"{name}: not in this run")
        elif key not in before:
            told.append(f"{name}: not in the kept run")
        else:
            told += [f"{name}: {line}" for line in _rows(before[key].ratios, after[key].ratios)]
    return told


def _rows(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> list[str]:
    told = []
    for row in dict.fromkeys((*before, *after)):
        old, new = before.get(row), after.get(row)
        if row not in before:
            told.append(f"{row}: not in the kept run")
        elif row not in after:
            told.append(f"{row}: not in this run")
        elif old is not None and new is None:
            told.append(f"{row}: {old:.2f} in the kept run, not measured in this one")
        elif old is not None and new is not None and new < (1 - TOLERANCE) * old:
            told.append(
                f"{row}: slower, {old:.2f} in the kept run, {new:.2f} in this one ({new / old - 1:+.0%})"
            )
    return told
