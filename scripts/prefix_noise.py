"""Noise of the model after the last round by mechanism and turns, over the clip: what a budget of ε leaves of each.

Run: python scripts/prefix_noise.py [EPSILON [ROUNDS]]
Every mechanism has the least multiplier z that keeps the budget at δ = 1e-5. drawn: fresh noise, clients drawn with probability
1 / b; in turns: fresh noise, clients b rounds apart; tree and toeplitz: the same turns. The figure is the deviation per number of
the noise in the sum of all rounds' changes.
"""

import math
import sys
from typing import Any

from fedloom.privacy.differential.accountant import calibrated, correlated_of
from fedloom.privacy.differential.settings import DP


def last_prefix(dp: DP, apart: int, rounds: int) -> float:
    """The deviation of the noise in the sum of `rounds` rounds, over the clip."""
    z, correlated = calibrated(dp, 1 / apart, 1, rounds), correlated_of(dp, 1 / apart)
    if correlated is None:
        return z * math.sqrt(rounds)
    total: dict[tuple[int, ...], float] = {}
    for number in range(1, rounds + 1):
        for draw, weight in correlated.weights(number).items():
            total[draw] = total.get(draw, 0.0) + weight
    return z * math.sqrt(sum(w**2 for w in total.values()))


def main(epsilon: float, rounds: int) -> None:
    """A Markdown table: a line for each number of rounds between two participations."""
    print(
        "| rounds between two turns | fresh, drawn | fresh, in turns | tree | toeplitz |\n|---|---|---|---|---|"
    )
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"mechanism": "tree", "restart": 1},
        {"mechanism": "tree"},
        {"mechanism": "toeplitz"},
    )
    for apart in (1, 2, 5, 10, 20):
        settings = [DP(noise_multiplier="calibrated", epsilon=epsilon, **kind) for kind in kinds]
        print(f"| {apart} | {' | '.join(f'{last_prefix(dp, apart, rounds):.2f}' for dp in settings)} |")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(float(given[0]) if given else 4.0, int(given[1]) if len(given) > 1 else 20)
