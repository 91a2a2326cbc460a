"""Overhead of a round without the clients' work: ten echoing clients, 98 MB down and up, against a plain loop.

`python -m benchmarks overhead [clients] [MB] [rounds] [turns]` (10 98 5 3 if none are given). Every line is measured in turn
with the others, each time in a process of its own with one thread; the fastest round counts, as other load only slows down.

In the plain loop the clients' dictionaries hold the server's tensors, as in a naive script, and the server makes one
new model a round: per tensor a weighted float64 sum, rounded to float32. The engine copies no more: payloads are shared both
ways and copied on write. Nothing is evaluated or written to disk, unless a line says so.

`without checks` has no firewall (one pass over every upload: finite values and the norm of the change); the engine always
measures the model's change (one pass over the model). `plain, checked` is the loop with a straightforward `isfinite` and norm of
the change of every upload.
"""

import itertools
import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.child import child
from benchmarks.report import Row, clock, tell
from fedloom.core.payload import Payload, Reply, Scope
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.experiment.settings import Experiment
from fedloom.federation import LocalEngine, exchange, loop
from fedloom.federation.client import Client
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import Ask, Method, State, Trainer
from fedloom.methods.base.combine import mean_of
from fedloom.models.base import Trainable
from fedloom.tasks.base import Snapshot
from fedloom.tasks.evaluation import Assessment, TestSet

KINDS = ("plain", "plain, checked", "engine, without checks", "engine", "engine, with checkpoints")
TENSORS = 100


class Echo(Method):
    """Clients echo their payload; the server averages it."""

    name: ClassVar[str] = "echo"
    title: ClassVar[str] = "echo"
    paper: ClassVar[str] = "none"
    shares: ClassVar[Scope] = Scope(shared=("*",))

    def round(self, state: State, ask: Ask) -> State:
        """Average everything."""
        replies = ask("echo", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    def client(self, task: str, payload: Payload, trainer: Trainer) -> Payload:
        """The same tensors."""
        return Payload(payload.tensors, {"examples": 1})


class Unmeasured:
    """The evaluator without samples."""

    tests = TestSet([], [], [])

    def assess(self, snapshot: Snapshot) -> Assessment:
        """No figures."""
        return Assessment({}, {}, [])

    def controls(self, common: Any) -> dict[str, float]:
        """No figures."""
        return {}


class Weights(Trainable):
    """Named tensors without a model."""

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        return frozenset({"weights"})

    @property
    def root(self) -> nn.Module:
        raise NotImplementedError

    def prepare(self, sample: Sample, client: str | None = None) -> Any:
        raise NotImplementedError

    def losses(
        self,
        examples: Sequence[Any],
        owners: Sequence[int],
        count: int,
        features: Sequence[Any] | None = None,
    ) -> Tensor:
        raise NotImplementedError

    def score(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> list[tuple[int, int]]:
        raise NotImplementedError

    def generate(
        self, examples: Sequence[Any], max_new_tokens: int, features: Sequence[Any] | None = None
    ) -> list[str]:
        raise NotImplementedError

    def save_adapters(self, folder: Path) -> None:
        raise NotImplementedError


def weights(megabytes: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    each = megabytes * 10**6 // 4 // TENSORS
    return {f"weights/{i:03d}": torch.randn(each // 100, 100, generator=draw) for i in range(TENSORS)}


def plain(clients: int, megabytes: int, rounds: int, *, checked: bool) -> list[float]:
    shared, share, seconds = weights(megabytes), 1 / clients, []
    for _ in range(rounds):
        began = clock()
        replies = [dict(shared) for _ in range(clients)]
        if checked:
            for reply in replies:
                square = 0.0
                for name, tensor in reply.items():
                    if not torch.isfinite(tensor).all():
                        raise ValueError(name)
                    square += float((tensor - shared[name]).square().sum())
        new = {}
        for name in shared:
            total = replies[0][name].double() * share
            for reply in replies[1:]:
                total.add_(reply[name], alpha=share)
            new[name] = total.float()
        shared = new
        seconds.append(clock() - began)
    return seconds


def engine(
    clients: int,
    megabytes: int,
    rounds: int,
    *,
    checked: bool,
    folder: Path | None,
    method: Method | None = None,
    memory: int = 10**6,
) -> list[float]:
    model = Weights({n: nn.Parameter(t) for n, t in weights(megabytes).items()}, {}, {})
    everybody = {
        name: Client(ClientData(name, (), ()), frozenset({"weights"}))
        for name in (f"client-{i:02d}" for i in range(clients))
    }
    chosen = Experiment.parse(
        {
            "method": method or Echo(),
            "rounds": rounds + 1,
            "engine": {"memory": memory},
            "evaluation": {"generate": False, "controls": False, "every": 10**6},
        }
    )
    place = None if folder is None else RunFolder(folder / "run")
    if place is not None:
        place.create()
    ends = []
    federation = loop.Federation(
        chosen,
        LocalEngine(model, everybody, chosen.training),
        Unmeasured(),
        place,
        lambda progress: ends.append(clock()) if progress.client is None else None,
    )
    unchecked = mock.patch.object(exchange, "inspect", _accept_all)
    with nullcontext() if checked else unchecked:
        federation.run()
    return [after - before for before, after in itertools.pairwise(ends)]


def _accept_all(replies: Sequence[Reply], **rules: Any) -> tuple[list[Reply], dict[str, str]]:
    """In the firewall's place."""
    return sorted(replies, key=lambda r: r.client), {}


def measure(kind: str, clients: int, megabytes: int, rounds: int) -> float:
    """Seconds of the fastest round."""
    torch.set_num_threads(1)
    if kind.startswith("plain"):
        return min(plain(clients, megabytes, rounds, checked="checked" in kind))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) if "checkpoints" in kind else None
        return min(engine(clients, megabytes, rounds, checked="without" not in kind, folder=folder))


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(arguments[1], *(int(a) for a in arguments[2:]))))
        return []
    clients, megabytes, rounds, turns = map(int, [*arguments, *["10", "98", "5", "3"][len(arguments) :]])
    print(f"{clients} clients, {megabytes} MB each way, fastest of {turns} x {rounds} rounds")
    fastest: dict[str, float] = {}
    for kind in KINDS * turns:
        seconds = child("overhead", kind, clients, megabytes, rounds)
        fastest[kind] = min(seconds, fastest.get(kind, float("inf")))
    rows = []
    for kind, seconds in fastest.items():
        print(
            f"{kind:28}{seconds:>8.3f} s   {seconds / fastest['plain']:>5.2f} x plain"
            f"   {seconds / fastest['plain, checked']:>5.2f} x plain, checked"
        )
        if kind.startswith("engine"):
            what = f"{kind}, {clients} clients x {megabytes} MB each way"
            rows.append(Row("overhead", what, "a plain loop", "0.67", [seconds], [fastest["plain"]]))
    tell(rows)
    return rows
