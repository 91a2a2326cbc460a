"""Report of a row of `python -m benchmarks`: its ratio, machine, versions and commit."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

PROCESSOR = os.environ.get("BENCH_CLOCK") == "processor"
clock = time.process_time if PROCESSOR else time.perf_counter
"""Wall-clock seconds; with BENCH_CLOCK=processor the process's processor time, less sensitive to other load.

The latter only if both sides run on one thread of one process: `aggregation`, `cohort`, `features`, `overhead`,
`gpu --size tiny`.
"""
THREADS = torch.get_num_threads()
"""Threads of this process before any run set others."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One comparison. `ours` and `of_rival` are seconds (or `unit`) per repetition, in turns; empty if it could not run."""

    name: str
    what: str
    rival: str
    target: str
    ours: Sequence[float] = ()
    of_rival: Sequence[float] = ()
    difference: float | None = None
    """Largest difference of the two results; None if they are not comparable."""
    note: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """Median of the rival's figures over the median of ours; above 1 ours is better."""
        return median(self.of_rival) / median(self.ours) if self.ours and self.of_rival else None

    @property
    def of_fastest(self) -> float | None:
        """The rival's fastest repetition over our fastest: a ratio robust to other load."""
        return min(self.of_rival) / min(self.ours) if self.ours and self.of_rival else None

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio of paired repetitions."""
        ratios = [b / a for a, b in zip(self.ours, self.of_rival, strict=False)]
        return min(ratios), max(ratios)


@contextmanager
def all_threads() -> Iterator[None]:
    """Inside, this process has as many threads as at its start: a rival beside workers, which share the cores, gets them all."""
    ours = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(ours)


def number_of_workers(arguments: Sequence[str]) -> int | None:
    """The number of workers in the last argument; None for none. Ends this process where their time would not be counted."""
    if not arguments or not int(arguments[0]):
        return None
    if PROCESSOR:
        sys.exit("BENCH_CLOCK=processor counts this process alone; measure workers by the clock")
    return int(arguments[0])


def interleaved(
    ours: Callable[[], object], rival: Callable[[], object], repetitions: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, in the order A B A B, after one uncounted repetition of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + 1):
        for kept, step in zip(seconds, (ours, rival), strict=True):
            began = clock()
            step()
            if repetition:
                kept.append(clock() - began)
    return seconds


def surroundings() -> str:
    """Machine, versions and commit, in two lines."""
    names, timer = ("torch", "peft", "transformers", "fedloom"), "processor time" if PROCESSOR else "clock"
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    return (
        f"{timer}, machine: {cores()} cores ({torch.get_num_threads()} threads used, load {os.getloadavg()[0]:.1f}), "
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, {cpu()}\n"
        f"versions: python {platform.python_version()}, {versions}; commit {commit()}"
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    named = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return named[0].split(":", 1)[1].strip() if named else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this folder, with a + if files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else "")


def tell(rows: Sequence[Row]) -> None:
    """Print every row, then the surroundings."""
    for row in rows:
        print(f"\n{row.name}: {row.what}, beside {row.rival}")
        if row.ratio is not None:
            low, high = row.spread
            print(
                f"  ratio {row.ratio:.2f} (repetitions {low:.2f} to {high:.2f}, fastest {row.of_fastest:.2f}; "
                f"target {row.target}): "
                f"ours {_figures(row.ours, row.unit)}, rival {_figures(row.of_rival, row.unit)}"
            )
        if row.difference is not None:
            print(f"  largest difference of the results {row.difference:.1e}")
        if row.note:
            print(f"  {row.note}")
    print(surroundings())


def table(rows: Sequence[Row]) -> str:
    """The rows as one Markdown table."""
    lines = [
        "| row | beside | ratio | repetitions | fastest | target | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio, spread, fastest = "not measured", "", ""
        if row.ratio is not None:
            low, high = row.spread
            ratio, spread = f"{row.ratio:.2f}", f"{low:.2f} to {high:.2f}"
            fastest = f"{row.of_fastest:.2f}"
        off = "" if row.difference is None else f"{row.difference:.1e}"
        what = f"{row.name}: {row.what}"
        lines.append(f"| {what} | {row.rival} | {ratio} | {spread} | {fastest} | {row.target} | {off} |")
    return "\n".join(lines)


def _figures(values: Sequence[float], unit: str) -> str:
    return f"{median(values):.4f} {unit} ({min(values):.4f} to {max(values):.4f}, n={len(values)})"
