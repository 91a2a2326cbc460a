"""Two hundred rounds with a client that misbehaves in another way each time, killed and resumed every twenty."""

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.core import files
from fedloom.core.payload import Payload, PayloadError, Reply, not_finite
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation import LocalEngine
from fedloom.federation.run_folder import RunFolder

ROUNDS, EVERY = 200, 20
BAD = "text-02"
SETTINGS = {
    "rounds": ROUNDS,
    "method": "fedsa-lora",
    "data": {"clients": {"text": 3}, "train": 1, "test": 1},
    "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
    "training": {"schedule": "simultaneous"},
    "evaluation": {"generate": False, "controls": False, "samples": 0, "every": ROUNDS},
    "engine": {"cohort": "off"},
}
Draw = random.Random


def numbers(reply: Reply, **changed: Any) -> list[Reply]:
    return [
        dataclasses.replace(
            reply, payload=Payload(reply.payload.tensors, {**reply.payload.numbers, **changed})
        )
    ]


def tensors(reply: Reply, change: Callable[[torch.Tensor], torch.Tensor], draw: Draw) -> list[Reply]:
    sent = dict(reply.payload.tensors)
    name = draw.choice(sorted(sent))
    return [
        dataclasses.replace(reply, payload=Payload({**sent, name: change(sent[name])}, reply.payload.numbers))
    ]


def flipped(reply: Reply, draw: Draw) -> list[Reply]:
    """The reply's bytes, spoilt in the header, as an engine that reads them from a wire takes them."""
    data = bytearray(reply.payload.encode())
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(200)] = draw.randrange(256)
    try:
        return [Reply(reply.client, Payload.decode(bytes(data)))]
    except PayloadError as error:
        return [Reply(reply.client, error=f"unreadable: {error}")]


WAYS: dict[str, Callable[[Reply, Draw], list[Reply]]] = {
    "honest": lambda reply, draw: [reply],
    "type": lambda reply, draw: numbers(reply, loss=draw.choice(["x", None, [1], {"a": 1}, True, 10**4000])),
    "text": lambda reply, draw: numbers(reply, note="\x1b[2J" * 1000),
    "shape": lambda reply, draw: tensors(reply, lambda t: t[None], draw),
    "dtype": lambda reply, draw: tensors(reply, lambda t: t.double(), draw),
    "nan": lambda reply, draw: tensors(reply, lambda t: torch.full_like(t, float("nan")), draw),
    "far": lambda reply, draw: tensors(reply, lambda t: torch.full_like(t, 1e30), draw),
    "silence": lambda reply, draw: [],
    "garbage": flipped,
    "duplicate": lambda reply, draw: [reply, reply],
    "stale": lambda reply, draw: numbers(reply, round=draw.randint(-1, 10**6)),
    "empty": lambda reply, draw: [dataclasses.replace(reply, payload=Payload({}, reply.payload.numbers))],
    "error": lambda reply, draw: [Reply(reply.client, error="\x1b]0;\u202e\n" * 10_000)],
}
HARMLESS = {"honest", "garbage"}
"""Ways that may be accepted: a flipped byte can leave a valid reply."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def misbehaves(monkeypatch: pytest.MonkeyPatch, seen: Counter[str]) -> None:
    """One client's replies take another way each round, drawn from the round's number."""
    original = LocalEngine.ask

    def ask(self: Any, method: Any, request: str, payloads: Any, at: Any, *rest: Any) -> list[Reply]:
        draw = Draw(at.number)
        way = draw.choice(sorted(WAYS))
        seen[way] += 1
        replies = original(self, method, request, payloads, at, *rest)
        return [sent for r in replies for sent in (WAYS[way](r, draw) if r.client == BAD else [r])]

    monkeypatch.setattr(LocalEngine, "ask", ask)
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)  # these kills leave the disk's cache as it is


def soaked(path: Path, kills: int | None) -> Any:
    """The run's result; with `kills`, a seed, the run dies at a drawn moment of every twentieth round."""
    experiment = Experiment.parse(SETTINGS)
    draw = Draw(kills)
    deaths = list(range(EVERY, ROUNDS + 1, EVERY)) if kills is not None else []
    for number, death in enumerate(deaths):
        moment = draw.choice(["text-01", "text-03", None])  # after a client's answer, or after the round

        def stop(told: Any, death: int = death, moment: str | None = moment) -> None:
            if told.round == death and told.client == moment:
                raise Killed

        with pytest.raises(Killed):
            run(experiment, path, resume=number > 0, observe=stop)
    return run(experiment, path, resume=bool(deaths))


@pytest.mark.slow
def test_a_soak_with_kills_ends_in_the_status_that_counts_and_in_the_bits_of_one_without(
    tmp_path, monkeypatch
) -> None:
    seen: Counter[str] = Counter()
    misbehaves(monkeypatch, seen)
    whole = soaked(tmp_path / "whole", None)
    assert set(seen) == set(WAYS)
    killed = soaked(tmp_path / "killed", 7)

    ledger = RunFolder(tmp_path / "killed").history("ledger.jsonl")
    assert [entry["round"] for entry in ledger] == list(range(1, ROUNDS + 1))
    refused = [entry["refused"] for entry in ledger if entry["refused"]]
    assert all(list(by_client) == [BAD] for by_client in refused)
    ways = [Draw(number).choice(sorted(WAYS)) for number in range(1, ROUNDS + 1)]
    harmful = [way not in HARMLESS for way in ways]
    assert all(bool(entry["refused"]) for entry, bad in zip(ledger, harmful, strict=True) if bad)
    text = json.dumps(ledger, ensure_ascii=False)
    assert text.isprintable()
    assert len(text) < ROUNDS * 1500
    assert killed.summary["status"] == f"complete, but {len(refused)} of {3 * ROUNDS} updates refused"

    one, two = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    state, other = one.last().state, two.last().state
    assert not_finite(state.shared) is None
    assert all(torch.equal(tensor, other.shared[name]) for name, tensor in state.shared.items())
    for file in sorted((one.path / "model").rglob("*.safetensors")):
        assert file.read_bytes() == (two.path / "model" / file.relative_to(one.path / "model")).read_bytes()
    assert {**whole.summary, "seconds": 0} == {**killed.summary, "seconds": 0}
    assert (one.path / "metrics.jsonl").read_bytes() == (two.path / "metrics.jsonl").read_bytes()
