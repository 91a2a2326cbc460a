"""`python -m benchmarks NAME [arguments]`; without a name, the list."""

import sys
from importlib import import_module

BENCHMARKS = ("memory", "scale", "overhead", "uploads", "aggregation")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [arguments]")
    import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
