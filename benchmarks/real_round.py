"""A whole round at SmolLM2-135M's size beside the same steps of a plain PEFT loop (`benchmarks.plain`), in time and memory.

`python -m benchmarks real_round [model] [clients] [batch] [steps] [repetitions] [what]` (135m 6 4 2 2 both if none are given;
what is time, memory or both). model is `135m`: a Llama of SmolLM2-135M's shape with random weights, saved and loaded by the real
class, and the shipped tokenizer; `tiny`, or a folder of a causal LM (`make real-assets` makes real/models/smollm2). Clients have
words alone; the method is FedAvg-LoRA of rank 8, in float32.

Time is the whole round of ours, with the firewall, the diagnostics and the averaging, and the loop with its averaging in turns;
evaluation is not part of it. Memory is the most that a process of its own ever held, over one round from loading to the mean with
an evaluation before and after; beside it stands that of a loop over one client, and what clients need further: an adapter, its
optimiser's two moments, and data, raw and prepared, for each.
"""

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.child import child
from benchmarks.cohort import Ours
from benchmarks.peak import most_resident
from benchmarks.plain import Plain, average, difference
from benchmarks.report import Row, clock, tell
from benchmarks.text_clients import RANK, SHIPPED
from fedloom.core.hf_logging import quiet_hf
from fedloom.experiment.clients import load_clients
from fedloom.experiment.settings import Experiment
from fedloom.models.example_cache import nbytes

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M's published configuration."""


def foundation(model: str, scratch: Path) -> dict[str, Any]:
    """The `model` settings; random weights are written below `scratch`."""
    if model == "tiny":
        return {}
    folder = scratch / model if model == "135m" else Path(model).resolve()
    if model == "135m" and not folder.exists():
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        with quiet_hf():
            LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
            AutoTokenizer.from_pretrained(SHIPPED / "llm").save_pretrained(folder)
    return {"llm": str(folder), "encoder": str(SHIPPED / "encoder"), "prompt": "paper"}


def experiment(model: dict[str, Any], clients: int, batch: int, steps: int, rounds: int) -> Experiment:
    """A run without media, evaluated before the first round and after the last, on one sample."""
    return Experiment.parse(
        {
            "method": "fedavg-lora",
            "rounds": rounds,
            "data": {"clients": {"text": clients}, "train": batch * steps, "test": 1},
            "model": {**model, "llm_lora": {"rank": RANK}},
            "training": {"batch_size": batch},
            "engine": {"device": "cpu"},
            "evaluation": {
                "every": rounds + 1,
                "generate": False,
                "controls": False,
                "clients": 1,
                "batch_size": 1,
            },
        }
    )


class Loop:
    """The plain loop over the clients of an experiment."""

    def __init__(self, chosen: Experiment) -> None:
        self.plain = Plain(chosen, [])
        self.state = self.plain.read()
        self.examples = {c.name: [self.plain.mllm.prepare(s) for s in c.train] for c in load_clients(chosen)}

    def round(self, number: int) -> None:
        """Every client's training, and the mean."""
        replies = [self.plain.train(self.state, e, [], n, number) for n, e in self.examples.items()]
        self.state.update(average(replies))


def timed(chosen: Experiment) -> tuple[list[float], list[float], float]:
    """Seconds of our rounds and the loop's, and the largest difference of the adapters after the first."""
    ours, loop = Ours(chosen), Loop(chosen)
    rival: list[float] = []
    gaps: list[float] = []

    def between(number: int) -> None:
        began = clock()
        loop.round(number)
        rival.append(clock() - began)
        gaps.append(difference(ours.federation.state.shared, loop.state))

    ours.between = between
    ours.run()
    return ours.whole[1:], rival[1:], gaps[0]


def peak(chosen: Experiment, *, plain: bool) -> dict[str, int]:
    """The most bytes held over one round, and those of one client's adapter and of all clients' data."""
    if plain:
        loop = Loop(chosen)
        loop.round(1)
        return {"peak": most_resident()}
    federation = Ours(chosen).federation
    federation.run()
    model = federation.engine.model
    data = [[*c.data.train, *c.data.test, *c.examples(model)] for c in federation.clients.values()]
    adapter = sum(nbytes(t) for n, t in model.tensors.items() if n.startswith("llm"))
    return {"peak": most_resident(), "adapter": adapter, "data": nbytes(data)}


def measure(model: str, clients: int, batch: int, steps: int, repetitions: int, what: str) -> list[Row]:
    """The rows of time and memory."""
    rows = []
    sizes = f"{model}, {clients} clients x batch {batch}, {steps} steps each"
    with tempfile.TemporaryDirectory() as place:
        settings = foundation(model, Path(place))
        if what != "time":
            ours, one = (
                child("real_round", json.dumps(settings), kind, number, batch, steps)
                for kind, number in (("ours", clients), ("plain", 1))
            )
            needed = clients * 3 * ours["adapter"] + ours["data"]
            rows.append(
                Row(
                    "real_round",
                    f"peak memory of a whole round: {sizes}",
                    "a loop of one client, and the adapters, their moments and data of all clients",
                    "1",
                    [ours["peak"] / 1e6],
                    [(one["peak"] + needed) / 1e6],
                    note=f"loop of one client {one['peak'] / 1e6:.0f} MB, adapters, moments and data {needed / 1e6:.0f} MB",
                    unit="MB",
                )
            )
        if what != "memory":
            mine, theirs, gap = timed(experiment(settings, clients, batch, steps, repetitions + 2))
            rows.append(
                Row(
                    "real_round",
                    f"whole round: {sizes}",
                    "a plain PEFT loop",
                    "0.95",
                    mine,
                    theirs,
                    gap,
                    f"a round takes {median(mine) / median(theirs):.3f} of the loop's time; the difference is after one round",
                )
            )
    return rows


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        settings, kind, *sizes = arguments[1:]
        number, size, length = map(int, sizes)
        chosen = experiment(json.loads(settings), number, size, length, 1)
        print(json.dumps(peak(chosen, plain=kind == "plain")))
        return []
    usual = ["135m", "6", "4", "2", "2", "both"]
    model, clients, batch, steps, repetitions, what = [*arguments, *usual[len(arguments) :]]
    rows = measure(model, int(clients), int(batch), int(steps), int(repetitions), what)
    tell(rows)
    return rows
