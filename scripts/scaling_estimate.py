"""The time of a round with W workers, on paper, from a measured cohort, the bytes that travel, and the run's own work on them.

    python scripts/scaling_estimate.py --clients 512 --cohort 8 --seconds 4.2 --megabytes 3.7 --serial 0.004 --start 270

A round trains ceil(cohorts / W) cohorts one after another on every worker, and the run's process then reads, checks and combines
every client's reply by itself: T(W) = ceil(K / (c W)) t + K m s. The frozen foundation travels once per node, before round 1.
"""

import argparse
import math
import sys


def round_seconds(clients: int, cohort: int, workers: int, seconds: float, serial: float) -> float:
    """T(W) in seconds; `seconds`: of one cohort; `serial`: of the run's own work for one client."""
    return math.ceil(clients / (cohort * workers)) * seconds + clients * serial


def half_way(clients: int, cohort: int, seconds: float, serial: float) -> float:
    """The number of workers at which the run's own work takes as long as training; more gain less than a factor 2."""
    return math.ceil(clients / cohort) * seconds / (clients * serial)


def main(*words: str) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, required=True, help="clients of a round, K")
    parser.add_argument("--cohort", type=int, required=True, help="clients trained together, c")
    parser.add_argument(
        "--seconds", type=float, required=True, help="measured seconds of one cohort's local training, t"
    )
    parser.add_argument("--megabytes", type=float, required=True, help="MB of one client's update, m")
    parser.add_argument(
        "--serial", type=float, required=True, help="measured seconds per MB in the run's process, s"
    )
    parser.add_argument("--start", type=float, default=0.0, help="MB of the frozen foundation")
    parser.add_argument("--network", type=float, default=1000.0, help="MB a second to a node")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    given = parser.parse_args(words)
    serial = given.megabytes * given.serial
    one = round_seconds(given.clients, given.cohort, 1, given.seconds, serial)
    print("workers   seconds a round   times one worker   busy")
    for workers in given.workers:
        took = round_seconds(given.clients, given.cohort, workers, given.seconds, serial)
        busy = math.ceil(given.clients / given.cohort) * given.seconds / (workers * took)
        print(f"{workers:7d}   {took:15.1f}   {one / took:16.1f}   {busy:4.0%}")
    cohorts = math.ceil(given.clients / given.cohort)
    even = half_way(given.clients, given.cohort, given.seconds, serial)
    print(
        f"no gain beyond {cohorts} workers (one cohort each); the run's own work equals training at {even:.0f}"
    )
    print(f"before round 1: {given.start / given.network:.1f} s a node for the foundation")


if __name__ == "__main__":
    main(*sys.argv[1:])
