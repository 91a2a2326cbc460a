"""The contract of a method, checked by small runs on the shipped models: `fedloom methods NAME --check`.

What the round loop promises for every method holds only if the method keeps to the rules: state in, state out, replies by
name, means where it says means. Methods for clients with models of their own need a generator, and are not checked here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation import Engine
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer, Progress
from fedloom.federation.run_folder import RunFolder
from fedloom.federation.settings import Round
from fedloom.methods import METHODS, Method
from fedloom.methods.base.clip import CLIPMethod
from fedloom.privacy.compatibility import private, why_not

ROUNDS = 3
LOST = -1
"""Position of the client that falls silent, or sends what is not finite."""
CLOSE = 0.01
"""Largest distance of a secure run's tensors from the plain run's, as a share of what the plain run changed."""


@dataclass(frozen=True)
class Finding:
    """One promise, and the fault that a run found, or None; `unchecked` is the reason why no run tried it."""

    promise: str
    fault: str | None = None
    unchecked: str | None = None


def findings(name: str) -> Iterator[Finding]:
    """The promises to a method, one after another, each as soon as it was tried. Raises ExperimentError."""
    if METHODS[name].public_items:
        raise ExperimentError(
            f"method {name} needs a generator and clients with models of their own, which the check has not; "
            "tests/contract/ in a checkout has them"
        )
    plain = _built(name)
    start = _everything(plain)
    plain.run()
    whole = _everything(plain)
    yield Finding("something is trained", None if _differs(whole, start) else "no tensor has changed")
    other = _built(name, engine={"wire": True})
    other.engine = _Altered(other.engine)
    other.run()
    promise = "one seed gives one result, whatever the order of clients and through the wire"
    yield _same(promise, _everything(other), whole)
    yield _same("a run that was cut off goes on to the same bits", _resumed(name), whole)
    silent = _built(name)
    lost = sorted(silent.clients)[LOST]
    promise = "a client whose update is not finite counts like one that is silent"
    if len(silent.clients) == 1:
        yield Finding(promise, unchecked="the method has one client")
    elif not METHODS[name].shares.shared:
        yield Finding(promise, unchecked="the method sends no tensors")
    else:
        silent.engine = _Altered(silent.engine, lost)
        silent.run()
        spoiled = _built(name, attack={"kind": "nan", "clients": [lost]})
        spoiled.run()
        yield _same(promise, _everything(spoiled), _everything(silent))
    yield _secure(name, start, whole)


def _secure(name: str, start: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Finding:
    """Whether the method does the same on secure sums, where it says that means are enough."""
    promise = "secure aggregation gives the plain result"
    if not private(METHODS[name]):
        return Finding(promise, unchecked=f"refused there, because it {why_not(METHODS[name])}")
    if find_spec("cryptography") is None or find_spec("Crypto") is None:
        return Finding(promise, unchecked="install fedloom[privacy]")
    federation = _built(name, privacy={"secure": {}})
    federation.run()
    summed = _everything(federation)
    if summed.keys() != whole.keys():
        return Finding(
            promise, f"{sorted(summed.keys() ^ whole.keys())[0]} exists in one of the two runs alone"
        )
    shared = [n for n in whole if n in start and not torch.equal(whole[n], start[n])]
    moved = sum(_squares(whole[n] - start[n]) for n in shared)
    apart = sum(_squares(whole[n] - summed[n]) for n in shared)
    share = (apart / moved) ** 0.5 if moved else 0.0
    fault = f"the tensors end {share:.0%} of their change away; does it need single clients' updates?"
    return Finding(promise, fault if not share < CLOSE else None)


def _squares(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _built(
    name: str, folder: RunFolder | None = None, observe: Observer = lambda progress: None, **settings: Any
) -> Federation:
    """A federation of three clients with a few samples of the small world each, before its first round."""
    clip = issubclass(METHODS[name], CLIPMethod)
    data: dict[str, Any] = {"clients": {"both": 3}, "train": 8, "test": 3}
    if clip:
        few = {"kind": "few-shot", "shots": 2}
        data = {"source": "classes", "dataset": "tabletop48", "clients": {"image": 3}, "train": 2, "test": 1}
        data["partition"] = few
    evaluation = {"every": ROUNDS, "samples": 0} | ({} if clip else {"generate": False, "controls": False})
    experiment = Experiment.parse(
        {
            "name": "check",
            "rounds": ROUNDS,
            "method": name,
            "data": data,
            "training": {"batch_size": 4, "steps": 2} | ({"optimizer": "sgd", "lr": 0.01} if clip else {}),
            "evaluation": evaluation,
            **settings,
        },
        f"the check of {name}",
    )
    return build(experiment, folder, observe)


def _resumed(name: str) -> dict[str, Tensor]:
    """The outcome of a federation that was cut off after its first round, and went on from the checkpoint."""

    class Cut(BaseException):
        """Nothing in the loop catches it."""

    def cut(progress: Progress) -> None:
        if progress.client is None and progress.round == 1:
            raise Cut

    with TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        with suppress(Cut):
            _built(name, folder, cut).run()
        again = _built(name, folder)
        again.resume(folder.last())
        again.run()
        return _everything(again)


def _everything(federation: Federation) -> dict[str, Tensor]:
    """All that a federation has learned: shared tensors, the method's own, and the clients' personal ones; copies."""
    tensors = {**federation.state.shared, **federation.state.tensors}
    for client in federation.clients.values():
        tensors |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
    return {n: t.detach().clone() for n, t in tensors.items()}


def _same(promise: str, ended: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Finding:
    """Whether a run ended in these tensors."""
    name = _differs(ended, wanted)
    return Finding(promise, None if name is None else f"{name} differs")


def _differs(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor is not the same in both, or None."""
    for name in sorted({*one, *other}):
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None


@dataclass
class _Altered:
    """An engine that asks the clients in reverse order, and loses the replies of one."""

    inner: Engine
    lost: str | None = None

    @property
    def model(self) -> Any:
        return self.inner.model

    @property
    def clients(self) -> Any:
        return self.inner.clients

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Callable[[str, float], None] = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        backward = {client: payloads[client] for client in sorted(payloads, reverse=True)}
        replies = self.inner.ask(method, request, backward, at, done, received)
        return [reply for reply in replies if reply.client != self.lost]

    def close(self) -> None:
        self.inner.close()
