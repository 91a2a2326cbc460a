"""A run's totals, and the progress reports to an observer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Totals:
    """A run's counters; part of every checkpoint."""

    bytes_up: int = 0
    bytes_down: int = 0
    asked: int = 0
    refused: int = 0
    left_out: int = 0
    skipped_rounds: int = 0
    failed_rounds: int = 0
    """Rounds whose result the server could not compute, or that was not finite."""
    closed_sums: int = 0
    """Secure sums over a group that too few clients trained."""
    unmeasured: int = 0
    """Evaluations that a site was asked for and whose figures did not come or were refused."""
    seconds: float = 0.0
    budget: str = ""
    """A sentence if the privacy budget ended the run early; else empty."""
    accepted: list[str] = field(default_factory=list)
    """Changes of the run's inputs that were accepted on resume, a clause each."""
    untracked: list[str] = field(default_factory=list)
    """Trackers that stopped before the run did, a clause each."""

    def status(self, attack: str | None = None, skipped: str = "", doubts: Sequence[str] = ()) -> str:
        """`complete`, with reservations if there are any.

        These are the simulated attack, skipped samples, `doubts` about the model, and what the rounds met.
        """
        faults = [fault for fault in (attack, skipped, *doubts, self.budget) if fault]
        if self.refused:
            faults.append(f"{self.refused} of {self.asked} updates refused")
        if self.left_out:
            faults.append(
                f"{self.left_out} of {self.asked} updates left out, wholly or in part, by the robust stage"
            )
        if self.skipped_rounds:
            faults.append(f"{self.skipped_rounds} rounds without a quorum changed nothing")
        if self.failed_rounds:
            faults.append(f"{self.failed_rounds} rounds failed on the server and changed nothing")
        if self.closed_sums:
            faults.append(
                f"{self.closed_sums} sums over a group that too few clients trained were not opened"
            )
        if self.unmeasured:
            faults.append(f"{self.unmeasured} evaluations at sites are missing from the figures")
        faults += dict.fromkeys(self.untracked)
        if self.accepted:
            more = f" and {len(self.accepted) - 3} more" if len(self.accepted) > 3 else ""
            faults.append(f"changes were accepted on resume: {'; '.join(self.accepted[:3])}{more}")
        return "complete" if not faults else "complete, but " + " and ".join(faults)


@dataclass(frozen=True)
class Progress:
    """One report to an observer: the round (0 = before training), its metrics, and the totals so far."""

    round: int
    """The round; 0 is before training."""
    rounds: int
    """Number of rounds of the run."""
    metrics: Mapping[str, float]
    """The round's figures by name, such as global/image/token_accuracy; empty with a single client's answer."""
    totals: Totals
    """The run's counters so far: bytes, refusals, seconds."""
    client: str | None = None
    """The client that has just answered; None when the round is over."""
    clients: int = 0
    """Number of clients asked in this round."""
    notes: Sequence[str] = ()
    """Sentences about the model, with the report of round 0, and about trackers that stopped."""
    ledger: Sequence[Mapping[str, Any]] = ()
    """With the report of a round's end, its requests as in `ledger.jsonl`: who was asked, answered and refused, and bytes."""
    client_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """With the report of a round that was evaluated, the figures of each client's own test samples."""


class Stopped(BaseException):  # a request, not an error: nothing that catches errors may take it
    """An observer raises it to stop the run, which can be resumed."""


Observer = Callable[[Progress], None]
