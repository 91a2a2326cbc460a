"""Speed, memory and scale, each beside a stated rival in the same run: `python -m benchmarks memory`."""
