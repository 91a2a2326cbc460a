"""A round's training beside a sequential plain PEFT loop (`benchmarks.plain`), on the shipped tiny MLLM.

`python -m benchmarks cohort [clients] [batch] [kind] [repetitions] [workers]` (20 and 50 clients, batch 2, every kind if none
are given). With workers, our clients train in so many processes that share the cores; the loop has all threads, as before.

Kinds: `text`: clients without modalities train the LLM's adapter on words alone. `stage2`: image clients with tau = 0 train the
LLM's adapter behind the frozen encoder, whose forward pass counts. `whole`: image clients with tau = 0.25, a quarter of the steps
trains the trunk's adapter and the projector, the rest the LLM's. Every client has 4 batches. The method is FedAvg-LoRA.

Preparing data, loading the foundation, evaluation and writing are not timed. Timed are: training alone (the engine's exchange,
against the loop over the clients) and the whole round (with the firewall, the diagnostics and the averaging, against the loop and
its averaging). Our rounds and the rival's alternate; each continues from its own last result.

Both sides end with the same adapters: one more round in float64, not timed, gives the shown difference. In float32
AdamW divides the rounding noise of an almost zero gradient by itself, so that single entries differ by up to the learning rate;
the note gives this difference, absolute and relative to the change of the model.
"""

from contextlib import closing
from dataclasses import replace
from typing import Any

from benchmarks.plain import Plain, average, difference, relative
from benchmarks.report import Row, all_threads, clock, number_of_workers, tell
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Progress
from fedloom.federation.settings import EngineSettings

STEPS = 4
TARGETS = {20: "4", 50: "5"}
KINDS = ("text", "stage2", "whole")


def experiment(
    kind: str,
    clients: int,
    batch: int,
    rounds: int,
    method: str = "fedavg-lora",
    workers: int | None = None,
) -> Experiment:
    """A run with minimal evaluation: before the first round and after the last, one sample per client."""
    holding = {"text": {"text": clients}, "both": {"image": clients - clients // 2, "audio": clients // 2}}
    engine: dict[str, Any] = {"device": "cpu"}
    if "cohort" in EngineSettings.model_fields:
        engine["cohort"] = "auto"
    if workers is not None:
        engine["workers"] = workers
    return Experiment.parse(
        {
            "method": method,
            "rounds": rounds,
            "data": {"clients": holding.get(kind, {"image": clients}), "train": STEPS * batch, "test": 1},
            "training": {"batch_size": batch, "tau": 0.0 if kind == "stage2" else 0.25},
            "engine": engine,
            "evaluation": {"every": rounds + 1, "generate": False, "controls": False},
        }
    )


class Ours:
    """A federation with timed rounds; calls `between` after each of them but the last."""

    _began: float
    _trained: float

    def __init__(self, chosen: Experiment, double: bool = False) -> None:
        self.federation: Federation = build(chosen, None, self._observe)
        if double:
            model = self.federation.engine.model
            model.root.double()
            model.start = {n: t.double() for n, t in model.start.items()}
            self.federation = replace(self.federation)
        for client in self.federation.clients.values():
            client.examples(self.federation.engine.model)
        self.training: list[float] = []
        self.whole: list[float] = []
        self.between: Any = lambda number: None
        self._ask, self.federation.engine.ask = self.federation.engine.ask, self._timed  # type: ignore[method-assign]

    def run(self) -> None:
        """Run all rounds; the last one includes an evaluation and is not counted."""
        with closing(self.federation.engine):
            self.federation.run()

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        began = clock()
        try:
            return self._ask(*args, **kwargs)
        finally:
            self._trained = clock() - began

    def _observe(self, progress: Progress) -> None:
        if progress.client is not None:
            return
        if 0 < progress.round < progress.rounds:
            self.whole.append(clock() - self._began)
            self.training.append(self._trained)
            self.between(progress.round)
        self._began = clock()


def agreement(kind: str, clients: int, batch: int) -> float:
    """Largest difference between our adapters and the rival's after one round in float64."""
    chosen = experiment(kind, clients, batch, 1)
    federation = Ours(chosen, double=True).federation
    plain = Plain(chosen, [] if kind == "text" else ["image"])
    plain.mllm.double()
    members = sorted(federation.clients.items())
    examples = {n: c.examples(federation.engine.model) for n, c in members}
    state = plain.read()
    replies = [plain.train(state, examples[n], sorted(c.data.holds), n, 1) for n, c in members]
    federation.run()
    return difference(federation.state.shared, {**state, **average(replies)})


def measure(
    kind: str, clients: int, batch: int, repetitions: int = 3, workers: int | None = None
) -> list[Row]:
    """The two rows of one kind. The first round of both is not counted."""
    chosen = experiment(kind, clients, batch, repetitions + 2, workers=workers)
    ours = Ours(chosen)
    federation = ours.federation
    plain = Plain(chosen, [] if kind == "text" else ["image"])
    prepared = {n: c.examples(federation.engine.model) for n, c in sorted(federation.clients.items())}
    holds = {n: sorted(c.data.holds) for n, c in federation.clients.items()}
    state = plain.read()
    start = dict(state)
    training, whole, gaps, shares = [], [], [], []

    def rival(number: int) -> None:
        with all_threads():
            began = clock()
            replies = [plain.train(state, e, holds[n], n, number) for n, e in prepared.items()]
            training.append(clock() - began)
            state.update(average(replies))
            whole.append(clock() - began)
        gaps.append(difference(federation.state.shared, state))
        shares.append(relative(federation.state.shared, state, start))

    ours.between = rival
    ours.run()
    what = f"{kind}, {clients} clients x batch {batch}, {STEPS} steps each"
    what += f", {workers} workers" if workers else ""
    gap = agreement(kind, clients, batch)
    note = (
        f"difference {gap:.1e} in float64; in float32 {gaps[0]:.1e} after one round, {shares[0]:.1e} of the way, "
        f"after {len(gaps)} rounds {gaps[-1]:.1e}"
    )
    common: dict[str, Any] = {"rival": "a sequential plain PEFT loop", "difference": gap, "note": note}
    target = TARGETS.get(clients, "none")
    return [
        Row(
            "cohort",
            f"training alone: {what}",
            target=target,
            ours=ours.training[1:],
            of_rival=training[1:],
            **common,
        ),
        Row(
            "cohort", f"whole round: {what}", target=target, ours=ours.whole[1:], of_rival=whole[1:], **common
        ),
    ]


def main(arguments: list[str]) -> list[Row]:
    kinds = arguments[2:3] or KINDS
    sizes = [(int(arguments[0]), int(arguments[1]))] if len(arguments) > 1 else [(20, 2), (50, 2)]
    repetitions = int(arguments[3]) if len(arguments) > 3 else 3
    workers = number_of_workers(arguments[4:])
    rows = [row for size in sizes for kind in kinds for row in measure(kind, *size, repetitions, workers)]
    tell(rows)
    return rows
