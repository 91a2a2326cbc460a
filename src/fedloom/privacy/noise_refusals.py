"""Settings of differential privacy that cannot work together, and sentences about weak promises."""

import math
from typing import TYPE_CHECKING

from fedloom.privacy.differential.quantile import count_deviation, first_clip, vector_multiplier
from fedloom.privacy.differential.settings import DP, QuantileClip
from fedloom.privacy.secure.protocol import ROOM, threshold_of
from fedloom.privacy.settings import Secure

if TYPE_CHECKING:
    from fedloom.methods.base.method import Method


def dp_refusal(
    dp: DP, method: "Method", fraction: float, rounds: int, *, secure: bool, warm: bool
) -> str | None:
    """Reason why these settings cannot work, in one sentence, or None. `warm`: whether another method has the first rounds."""
    if not dp.in_turns:
        return None
    setting = f"privacy.dp.mechanism: {dp.mechanism}"
    if secure:
        return (
            f"{setting} takes back noise of earlier rounds, whose clients are not those of this round; leave privacy.secure out, "
            "or set mechanism: gaussian"
        )
    if isinstance(dp.clip, QuantileClip):
        return f"{setting} takes back noise that was scaled to one clip; set privacy.dp.clip to a number"
    if abs(1 / fraction - round(1 / fraction)) > 0.01:
        return (
            f"{setting} has clients take part in turns, and {fraction:g} of them are no whole share; set cohort.fraction to one "
            "over a whole number, such as 0.25"
        )
    if method.alternates or warm:
        return (
            f"{setting} takes back noise in the tensors of earlier rounds, and "
            f"{'method.warm_start' if warm else f'method {method.name}'} changes them; take another method"
        )
    if dp.restart is not None and dp.restart >= rounds:
        return f"privacy.dp.restart: {dp.restart} is never reached in {rounds} rounds; leave it out"
    return None


def cut_noise(dp: DP | None, secure: Secure | None, clients: int) -> str | None:
    """Reason why the numbers of a secure sum are too small for a client's noise, or None."""
    if dp is None or secure is None:
        return None
    least = max(secure.least, threshold_of(secure.threshold, clients))
    deviation = max(vector_multiplier(dp) * first_clip(dp), count_deviation(dp)) / math.sqrt(least)
    if ROOM * deviation <= secure.clip:
        return None
    return (
        f"privacy.secure.clip: {secure.clip:g} would cut noise of deviation {deviation:.3g} per client; set it to {ROOM} "
        "times as much, or lower privacy.dp.clip"
    )


def largest_clip(dp: DP, secure: Secure) -> float:
    """The largest clip at which the words of a secure sum of the fewest clients hold a client's noise."""
    return 0.999 * secure.clip * math.sqrt(secure.least) / (ROOM * vector_multiplier(dp))


def weak_promise(dp: DP | None, clients: int) -> str | None:
    """A sentence about a δ that promises nothing to one client of so many, or None."""
    if dp is None or dp.delta < 1 / clients:
        return None
    least = 1 / clients
    return (
        f"privacy.dp.delta {dp.delta:g} is not below one over the number of clients, {least:g}: it would allow one "
        "client's change to be published whole; take a smaller delta"
    )
