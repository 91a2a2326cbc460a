"""A pool of workers on a Ray cluster: actors spread over its nodes, the frozen weights once in every node's object store.

Needs the extra `fedloom[ray]`, on all nodes, and the run's files at the same paths.
"""

import os
import socket
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedloom.core.activity import tell
from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_process
from fedloom.core.payload import Payload
from fedloom.core.tensor_files import bytes_of
from fedloom.core.tensor_messages import Packed, pack, unpack
from fedloom.federation.pool import Answered, Event, Lost, Make, Ready, packed
from fedloom.federation.worker import CohortWork, Identity, Results, Worker
from fedloom.models import shared_weights
from fedloom.models.base import Trainable

_joined = False
"""Whether `connect` has joined the cluster, which a run then leaves at its end."""
PATIENCE = 30.0
"""Seconds of waiting for the cluster after which the run says that it waits."""
PAYLOADS = 8
"""Payloads of the last asks that stay in the object store for further cohorts."""
Stored = tuple[torch.dtype, tuple[int, ...], "np.ndarray[Any, Any]"]
"""A tensor as the object store keeps it without a copy: type, shape and bytes."""
Message = tuple[bytes, list[Stored]]


@dataclass(frozen=True)
class Reserved:
    """What each worker reserves in the cluster."""

    cpus: float
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """The same in Ray's words."""
        return {name: count for name, count in (("CPU", self.cpus), ("GPU", self.gpus)) if count}


def connect(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start one on this machine, unless this process belongs to one.

    Raises ExperimentError without Ray, and where there is no such cluster.
    """
    global _joined
    ray = _ray()
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {} if address else {"include_dashboard": False}
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ExperimentError(
            f"engine.address: no Ray cluster can be reached at {address or 'this machine'} ({_first_line(error)}); start one by "
            "`ray start --head`"
        ) from error
    _joined = True


def _knock(address: str | None) -> None:
    """Raise OSError or ValueError where nothing listens at host:port: Ray itself would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def leave() -> None:
    """Leave the cluster that `connect` has joined, if it has."""
    global _joined
    if _joined:
        _ray().shutdown()
        _joined = False


def room(reserved: Reserved) -> int:
    """The number of workers for which the connected cluster has resources."""
    total = _ray().cluster_resources()
    return min((int(total.get(name, 0.0) // count) for name, count in reserved.bundle.items()), default=1)


@dataclass
class _Slot:
    """One worker's actor, and its call under way."""

    actor: Any
    call: Any = None
    state: Literal["building", "starting", "idle", "at work"] = "building"


class RayPool:
    """`count` actors in a placement group that spreads them over the nodes; `connect` comes first."""

    def __init__(self, make: Make, count: int, reserved: Reserved) -> None:
        """Raises ExperimentError where the cluster has no room, or `make` cannot be sent."""
        self.count, self._reserved = count, reserved
        self._ray: Any = _ray()
        if (most := room(reserved)) < count:
            raise ExperimentError(
                f"engine.workers: the Ray cluster has room for {most} workers of {reserved.cpus:g} CPUs and {reserved.gpus:g} "
                f"GPUs, not for {count}"
            )
        self._make = _in_store(packed(make))
        self._group = self._ray.util.placement_group([reserved.bundle] * count, strategy="SPREAD")
        self._opening: tuple[Any, Identity] | None = None
        self._device: torch.device | str = "cpu"
        self._payloads: OrderedDict[int, tuple[Payload, Any]] = OrderedDict()
        self._slots = {worker: self._started(worker) for worker in range(count)}

    def open(self, model: Trainable, expected: Identity) -> None:
        """See `Pool.open`."""
        self._device = model.device
        weights = {n: _stored(p.data) for n, p in shared_weights.frozen(model)}
        self._opening = self._ray.put(weights), expected
        for slot in self._slots.values():
            self._greet(slot)

    def idle(self) -> Sequence[int]:
        """See `Pool.idle`."""
        return [worker for worker, slot in sorted(self._slots.items()) if slot.state == "idle"]

    def send(self, worker: int, cohort: CohortWork) -> None:
        """See `Pool.send`. A payload goes to the object store once, and from there to a node once."""
        refs: dict[int, Any] = {}
        light = {}
        for name, call in cohort.calls.items():
            refs.setdefault(id(call.payload), self._put(call.payload))
            place = list(refs).index(id(call.payload))
            light[name] = replace(call, payload=Payload({}, {"place": place}))
        slot = self._slots[worker]
        slot.call = slot.actor.work.remote(_message(replace(cohort, calls=light)), *refs.values())
        slot.state = "at work"

    def events(self) -> Iterator[Event]:
        """See `Pool.events`."""
        calls = {
            slot.call: worker for worker, slot in self._slots.items() if slot.state in ("starting", "at work")
        }
        done: list[Any] = []
        while not done:
            done, _ = self._ray.wait(list(calls), num_returns=1, timeout=PATIENCE)
            if not done and not any(slot.state == "at work" for slot in self._slots.values()):
                tell(f"waiting for {self.count} workers of the Ray cluster")
        for call in done:
            yield self._event(calls[call], call)

    def renew(self, worker: int) -> None:
        """See `Pool.renew`."""
        self._slots[worker] = self._started(worker)
        self._greet(self._slots[worker])

    def close(self) -> None:
        """See `Pool.close`."""
        if not self._ray.is_initialized():
            return
        for slot in self._slots.values():
            with suppress(Exception):  # gone already
                self._ray.kill(slot.actor)
        self._slots.clear()
        self._payloads.clear()
        with suppress(Exception):
            self._ray.util.remove_placement_group(self._group)
        leave()

    def _started(self, worker: int) -> _Slot:
        strategies = self._ray.util.scheduling_strategies
        place = strategies.PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=worker
        )
        options = {"num_cpus": self._reserved.cpus, "num_gpus": self._reserved.gpus, "max_restarts": 0}
        kind = self._ray.remote(RayWorker).options(scheduling_strategy=place, **options)
        return _Slot(kind.remote(self._make, worker, os.getcwd()))

    def _greet(self, slot: _Slot) -> None:
        if self._opening is not None:
            slot.call = slot.actor.open.remote(*self._opening)
            slot.state = "starting"

    def _put(self, payload: Payload) -> Any:
        """The payload's reference in the object store."""
        if id(payload) not in self._payloads:
            self._payloads[id(payload)] = payload, self._ray.put(_message(payload))
            while len(self._payloads) > PAYLOADS:
                self._payloads.popitem(last=False)
        return self._payloads[id(payload)][1]

    def _event(self, worker: int, call: Any) -> Event:
        slot = self._slots[worker]
        errors = self._ray.exceptions
        try:
            message = self._ray.get(call)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, ExperimentError):
                raise type(cause)(str(cause)) from error
            raise ExperimentError(f"engine.name: a Ray worker raised {_last_line(error)}") from error
        except errors.RayError as error:
            slot.state, slot.call = "building", None
            return Lost(worker, f"of the Ray cluster was lost ({type(error).__name__})")
        slot.state = "idle"
        if message is None:
            return Ready(worker)
        results: Results = _read(message, self._device)
        return Answered(worker, results)


class RayWorker:
    """A worker as a Ray actor."""

    def __init__(self, make: Message, number: int, directory: str) -> None:
        self._make, self._number, self._directory = make, number, directory
        self._worker: Worker | None = None

    def open(self, weights: Mapping[str, Stored], expected: Identity) -> None:
        """Build the worker, check it, and put the object store's frozen weights in the place of its own."""
        quiet_process()
        with suppress(OSError):  # other machines may have no such folder; absolute paths need none
            os.chdir(self._directory)
        build: Make = _read(self._make, "cpu")
        worker = build(self._number)
        worker.check(expected)
        if worker.model.device.type == "cpu":
            own = dict(shared_weights.frozen(worker.model))
            shared_weights.replace(own, {n: _mapped(stored) for n, stored in weights.items()})
            worker.keep.append(weights)
        self._worker = worker

    def work(self, cohort: Message, *payloads: Message) -> Message:
        """Serve a cohort, whose payloads stand beside it."""
        assert self._worker is not None  # noqa: S101 - opened first
        device = self._worker.model.device
        light: CohortWork = _read(cohort, device)
        sent = [_read(payload, device) for payload in payloads]
        calls = {n: replace(c, payload=sent[c.payload.numbers["place"]]) for n, c in light.calls.items()}
        return _message(self._worker.work(replace(light, calls=calls)))


def _message(value: Any) -> Message:
    return _in_store(pack(value))


def _in_store(message: Packed) -> Message:
    return message.data, [_stored(t) for t in message.tensors]


def _read(message: Message, device: torch.device | str) -> Any:
    """The object, whose tensors are copies: the object store's memory cannot be written, and lies elsewhere than PyTorch's."""
    data, stored = message
    return unpack(Packed(data, [_mapped(s).clone() for s in stored]), device)


def _stored(tensor: Tensor) -> Stored:
    data = bytes_of(tensor.detach().cpu().contiguous()) if tensor.numel() else b""
    return tensor.dtype, tuple(tensor.shape), np.frombuffer(data, dtype=np.uint8)


def _mapped(stored: Stored) -> Tensor:
    """The tensor in the object store's own memory, which must not be written."""
    dtype, shape, data = stored
    if not data.size:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the memory is read-only: it is what we want
        return torch.from_numpy(data).view(dtype).reshape(shape)


def installed() -> bool:
    """Whether Ray is installed."""
    return find_spec("ray") is not None


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ExperimentError(
            "engine.name: ray needs the extra fedloom[ray]; pip install 'fedloom[ray]'"
        ) from error
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
