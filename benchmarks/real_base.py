"""A small real model end to end beside a plain PEFT loop (`benchmarks.plain`): memory by number of clients, seconds a step.

`python -m benchmarks real_base MODELS STAMPS [--clients 2 6 20] [--kinds off auto] [--repetitions 2] [--measure memory time]`

SmolLM2-135M behind Whisper tiny.en's encoder and a picture encoder in float32, adapted as in experiments/real/stamps.yaml.
docs/your-model.md, "Real weights without a hub", makes MODELS (its models/) and STAMPS (its stamps/).
Half of the clients hold pictures of animals, half their spoken names; every client has 4 samples for training and 1 for testing,
whatever the number of clients. A round is 2 steps of batch 4: one of the encoder's adapter and the projector, one of the LLM's
adapter, so that no side reads a sample's features twice. The method is FedAvg-LoRA; a kind is our `engine.cohort`, or
`checkpointed`: cohort off with `engine.checkpointing`, once there is such a setting.

Memory is the most that a process of its own ever held (VmHWM): libraries, weights, data, one round, the mean; ours also has the
firewall, and an evaluation of one sample per client before and after, which the rival leaves out. The difference of the results
is that of these two processes' adapters, in float32. Seconds a step are those of local training alone, repetitions of all sides
in turn in one process, each from the same start.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.child import child
from benchmarks.peak import most_resident
from benchmarks.plain import Plain, average, difference, relative
from benchmarks.report import Row, clock, surroundings
from fedloom.core.payload import Payload
from fedloom.experiment.build import build
from fedloom.experiment.clients import load_clients
from fedloom.experiment.settings import Experiment
from fedloom.federation.local_engine import LocalEngine
from fedloom.federation.loop import Federation
from fedloom.federation.settings import Round
from scripts.offline.animals import pairs, write

STEPS, BATCH, SAMPLES = 2, 4, 5
KINDS = ("off", "auto")
RIVAL = "plain"
ENGINES: dict[str, dict[str, Any]] = {
    RIVAL: {"cohort": "off"},
    "checkpointed": {"cohort": "off", "checkpointing": True},
}


def deal(stamps: Path, folder: Path, clients: int) -> None:
    """Write `clients` silos of SAMPLES pictures or sounds each, every fifth for testing."""
    pictures, sounds = pairs(stamps)
    half = clients // 2
    if clients < 2 or clients % 2 or half * SAMPLES > min(len(pictures), len(sounds)):
        most = 2 * (min(len(pictures), len(sounds)) // SAMPLES)
        raise SystemExit(f"real_base: {clients} clients; an even number from 2 to {most} is right")
    for k in range(half):
        place, name = slice(k * SAMPLES, (k + 1) * SAMPLES), f"{k + 1:02d}"
        write(folder / f"pictures-{name}", "image", pictures[place], "what is in the picture?")
        write(folder / f"voices-{name}", "audio", sounds[place], "what does the voice say?")


def experiment(models: Path, silos: Path, kind: str, **model: Any) -> Experiment:
    """A run of one round; `model` replaces settings of the model."""
    parts = {
        "llm": str(models / "smollm2"),
        "encoder": {"image": str(models / "vision"), "audio": str(models / "whisper-tiny-en")},
        "audio_seconds": 2.4,
        "tokens": 8,
        "projector": "mlp2x",
        "llm_lora": {"rank": 8, "alpha": 16},
        "encoder_lora": {"rank": 4},
    }
    return Experiment.parse(
        {
            "method": "fedavg-lora",
            "rounds": 1,
            "data": {"source": "folder", "path": str(silos)},
            "model": parts | model,
            "training": {"steps": STEPS, "batch_size": BATCH, "tau": 0.5, "lr": 1e-3},
            "engine": {"device": "cpu", **ENGINES.get(kind, {"cohort": kind})},
            "evaluation": {"generate": False, "controls": False, "batch_size": BATCH},
        }
    )


class Rival:
    """The plain loop over the same clients: one model, one client after another."""

    def __init__(self, chosen: Experiment) -> None:
        clients = load_clients(chosen)
        self.plain = Plain(chosen, ["image", "audio"])
        self.start = self.plain.read()
        self.holds = {c.name: sorted(c.holds) for c in clients}
        self.examples = {c.name: [self.plain.mllm.prepare(s) for s in c.train] for c in clients}

    def train(self) -> dict[str, dict[str, torch.Tensor]]:
        """Every client's trained tensors after one round."""
        return {n: self.plain.train(self.start, e, self.holds[n], n, 1) for n, e in self.examples.items()}


def whole(chosen: Experiment, kind: str, results: Path) -> dict[str, int]:
    """One round end to end; writes the adapters before and after, returns peak bytes and clients trained together."""
    together = 1
    start: Mapping[str, torch.Tensor]
    after: Mapping[str, torch.Tensor]
    if kind == RIVAL:
        rival = Rival(chosen)
        start, after = rival.start, {**rival.start, **average(list(rival.train().values()))}
    else:
        federation = build(chosen, None, lambda progress: None)
        engine, start = federation.engine, federation.state.shared
        assert isinstance(engine, LocalEngine)  # the experiment asks for no workers
        federation.run()
        after, together = federation.state.shared, engine.cohort
    for name, tensors in (("start", start), ("after", after)):
        save_file({n: t.contiguous() for n, t in tensors.items()}, results / f"{kind}-{name}.safetensors")
    return {"peak": most_resident(), "together": together}


def timed(sides: Mapping[str, Experiment], repetitions: int) -> dict[str, list[float]]:
    """Seconds of local training of all clients: the sides in turn, after one repetition of each that does not count."""
    steps: dict[str, Callable[[], object]] = {}
    for kind, chosen in sides.items():
        steps[kind] = Rival(chosen).train if kind == RIVAL else _training(build(chosen, None, lambda p: None))
    seconds: dict[str, list[float]] = {kind: [] for kind in sides}
    for repetition in range(repetitions + 1):
        for kind, step in steps.items():
            began = clock()
            step()
            if repetition:
                seconds[kind].append(clock() - began)
    return seconds


def _training(federation: Federation) -> Callable[[], object]:
    """A function that asks all clients to train from the start of round 1."""
    engine, clients = federation.engine, federation.clients
    for client in clients.values():
        client.examples(engine.model)

    def ask() -> object:
        shared = Payload(federation.state.shared)
        payloads = {name: client.view(shared) for name, client in clients.items()}
        return engine.ask(federation.method, "train", payloads, Round(1, 1, 0))

    return ask


def measure(
    models: Path, stamps: Path, clients: int, kinds: list[str], repetitions: int, measured: list[str]
) -> list[Row]:
    """One row per kind, each figure from a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        deal(stamps, folder / "silos", clients)
        inputs = [str(models.absolute()), str(folder)]
        memory = {}
        if "memory" in measured:
            memory = {kind: child("real_base", "memory", *inputs, kind) for kind in (RIVAL, *kinds)}
        seconds: dict[str, list[float]] = {}
        if "time" in measured:
            seconds = child("real_base", "time", *inputs, repetitions, RIVAL, *kinds)
        return [_row(folder, kind, clients, memory, seconds) for kind in kinds]


def _row(folder: Path, kind: str, clients: int, memory: Mapping[str, Any], seconds: Mapping[str, Any]) -> Row:
    per_step = {k: [s / (clients * STEPS) for s in values] for k, values in seconds.items()}
    gap, note = None, []
    if memory:
        ours, rival, start = (
            load_file(folder / f"{name}.safetensors")
            for name in (f"{kind}-after", f"{RIVAL}-after", f"{RIVAL}-start")
        )
        gap = difference(ours, rival)
        mine, theirs = (memory[k]["peak"] / 1e6 for k in (kind, RIVAL))
        note = [
            f"{memory[kind]['together']} trained together",
            f"peak memory {mine:.0f} MB, rival {theirs:.0f} MB, ratio {theirs / mine:.2f}",
            f"difference {relative(ours, rival, start):.1e} of the way",
        ]
    what = f"{clients} clients x batch {BATCH}, {STEPS} steps each, cohort {kind}"
    ours_s, rival_s = per_step.get(kind, ()), per_step.get(RIVAL, ())
    return Row("real_base", what, "a plain PEFT loop", "none", ours_s, rival_s, gap, "; ".join(note))


def _be_child(what: str, models: Path, folder: Path, words: list[str]) -> object:
    silos = folder / "silos"
    if what == "memory":
        return whole(experiment(models, silos, words[0]), words[0], folder)
    return timed({kind: experiment(models, silos, kind) for kind in words[1:]}, int(words[0]))


def table(rows: list[Row]) -> str:
    """Seconds a step and the ratio, one line per row."""
    lines = ["| clients, kind | s a step | rival | ratio | memory | differ by |", "|---|---|---|---|---|---|"]
    for row in rows:
        times = ["", "", ""]
        if row.ratio is not None:
            low, high = row.spread
            times = [
                f"{median(row.ours):.2f}",
                f"{median(row.of_rival):.2f}",
                f"{row.ratio:.2f} ({low:.2f} to {high:.2f})",
            ]
        gap = "" if row.difference is None else f"{row.difference:.1e}"
        lines.append(f"| {row.what} | {' | '.join(times)} | {row.note} | {gap} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        print(json.dumps(_be_child(arguments[1], Path(arguments[2]), Path(arguments[3]), arguments[4:])))
        return []
    parser = argparse.ArgumentParser(prog="python -m benchmarks real_base")
    parser.add_argument("models", type=Path)
    parser.add_argument("stamps", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 6, 20])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--measure", nargs="+", choices=("memory", "time"), default=["memory", "time"])
    chosen = parser.parse_args(arguments)
    rows = []
    for clients in chosen.clients:
        rows += measure(
            chosen.models, chosen.stamps, clients, chosen.kinds, chosen.repetitions, chosen.measure
        )
        print(table(rows), flush=True)
    print(surroundings())
    return rows
