"""`python -m benchmarks NAME [arguments]` runs one row; without a name, all rows run and one table is printed."""

import sys
from importlib import import_module

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
    "deploy",
    "missing",
    "plan",
    "samples",
    "secure_sum",
    "real_base",
    "gpu_proof",
)
"""Modules run by name only: a plot, tables without a rival, and rows that need files or a device of their own."""


def main() -> None:
    if len(sys.argv) < 2:
        rows: list[Row] = []
        for name in ROWS:
            rows += import_module(f"benchmarks.{name}").main([]) or []
        print("\n" + table(rows) + "\n\n" + surroundings())
    elif sys.argv[1] in (*ROWS, *PLOTS):
        import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    else:
        sys.exit(f"usage: python -m benchmarks [{'|'.join((*ROWS, *PLOTS))}] [arguments]")


if __name__ == "__main__":
    main()
