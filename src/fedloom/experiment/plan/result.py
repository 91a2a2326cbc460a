"""The plan of one run as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.experiment.plan.contents import AdaptedGroup, ClientKind, LoadedPart
from fedloom.experiment.plan.stopwatch import Time
from fedloom.experiment.plan.survey import Lengths


@dataclass(frozen=True)
class Seconds:
    """Times of a run: its start, the first and a later round without evaluation, evaluations, and the whole."""

    start: Time
    first_round: Time
    round: Time
    evaluation: Time
    """One evaluation between the first and the last round."""
    evaluations: Time
    """All evaluations, the controls included."""
    whole: Time


@dataclass(frozen=True)
class Traffic:
    """Bytes of a round and of the whole run, over all clients. `exact`: whether no probed round contradicts the totals."""

    up: int
    down: int
    whole_up: int
    whole_down: int
    exact: bool


@dataclass(frozen=True)
class Memory:
    """Bytes: after loading, in training, in evaluation, and at the highest; and in all and free on the device."""

    start: int
    training: int
    evaluation: int
    peak: int
    there: int
    free: int
    device: str


@dataclass(frozen=True)
class KindData:
    """Samples and local steps of one kind of client, over all its clients. `steps`: in a round in which all are asked."""

    train: Lengths
    test: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """Everything that a run is expected to be. None for a figure that was not measured."""

    name: str
    row: str
    across: str | None
    method: str
    rounds: int
    asked: int
    """Clients asked in a round."""
    cohort: int
    """Clients trained together."""
    parts: Sequence[LoadedPart]
    adapted: Sequence[AdaptedGroup]
    kinds: Sequence[ClientKind]
    data: Sequence[KindData]
    per_client: Sequence[tuple[int, int] | None]
    """By kind: bytes up and down of one client in a round."""
    tests: Lengths
    """The evaluated test samples."""
    steps: int
    """Local steps of the whole run, over all clients."""
    traffic: Traffic | None
    seconds: Seconds | None
    memory: Memory | None
    probed: str
    """How the figures were measured, in words."""
    notes: Sequence[str]
    advice: Sequence[str]
    whole_probe: float | None = None
    """Seconds that a probe of whole rounds would take."""
    stopped: bool = False
    """Whether the probe was ended by its limit."""
