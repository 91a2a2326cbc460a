"""Cohort training at the size of published models with random weights: seconds a step, memory, share of the matrix rate.

`python -m benchmarks gpu [--model vicuna-imagebind|qwen2.5-vl-3b] [--size full|tiny] [--dtype bfloat16|float32]
[--quantize none|4bit] [--clients N] [--repetitions N] [--compile] [--device NAME] [--json FILE]`

`full` is Vicuna-7B's and ImageBind-huge's shapes (its image trunk), or Qwen2.5-VL-3B's, `tiny` the same classes in a small size,
for a CPU. Weights go from the meta device to the device by a seeded draw, never through the CPU's memory; `4bit` then replaces
the LLM's frozen linear layers by bitsandbytes' nf4 ones, one layer at a time. Ten clients with 4 samples of 128 positions per
step (2 of 64 in `tiny`) train two stages of two steps each (tau = 0.5, so that both stages count). The rival runs the same jobs
one PEFT client after another, in the same run and precision. `python -m benchmarks gpu_proof` runs all of it.

The share is PyTorch's count of floating-point operations of one cohort per second, over the rate of one large matrix product in
the precision of the products; with 4 bits it is the count of the model before, without the work of unpacking.
"""

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_qwen, gpu_vicuna
from benchmarks.peak import most_resident
from benchmarks.random_weights import Work, quantize
from benchmarks.report import Row, clock, interleaved, surroundings, tell
from fedloom.models.base import Trainable
from fedloom.models.load import choose_device
from fedloom.models.precision import DTYPES
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training


@dataclass(frozen=True)
class Shapes:
    """`build(size, device, precision, work)`; `samples(model, client, work)`; `llm(model)`: the part that is quantised."""

    build: Callable[[str, torch.device, torch.dtype, Work], Trainable]
    samples: Callable[[Any, int, Work], Sequence[Any]]
    llm: Callable[[Any], nn.Module]


MODELS = {
    "vicuna-imagebind": Shapes(gpu_vicuna.foundation, gpu_vicuna.samples, lambda m: m.mllm.llm),
    "qwen2.5-vl-3b": Shapes(
        gpu_qwen.foundation, gpu_qwen.samples, lambda m: m.model.get_submodule(m.family.llm)
    ),
}


WORK = {"full": Work(), "tiny": Work(batch=2, positions=64, answer=8)}


@dataclass(frozen=True)
class Case:
    """One measurement: a model's size, precision and frozen weights, and the clients that train it."""

    model: str = "vicuna-imagebind"
    size: str = "tiny"
    dtype: str = "float32"
    quantize: str = "none"
    clients: int = 10
    work: Work = WORK["tiny"]


def jobs(model: Trainable, case: Case) -> list[LocalJob]:
    """A job per client: all steps in two stages, every tensor."""
    training = Training(batch_size=case.work.batch, tau=0.5)
    names, samples = frozenset(model.tensors), MODELS[case.model].samples
    return [
        LocalJob(f"client-{k:02d}", samples(model, k, case.work), model.start, names, training, 0, 1, 1, {})
        for k in range(case.clients)
    ]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, device work included."""
    _wait(device)
    began = clock()
    work()
    _wait(device)
    return clock() - began


def matrix_rate(device: torch.device, precision: torch.dtype, n: int) -> float:
    """Floating-point operations per second of an n x n product, the best of 5."""
    a, b = (torch.randn(n, n, device=device).to(precision) for _ in range(2))
    a @ b
    return 2 * n**3 / min(seconds(lambda: a @ b, device) for _ in range(5))


def peak(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of the device's memory during one call; on a CPU of this process until its end."""
    if device.type != "cuda":
        work()
        return most_resident()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def measure(case: Case, device: torch.device, repetitions: int, compiled: bool = False) -> dict[str, Any]:
    """All figures of a case."""
    precision = DTYPES[case.dtype]
    model = MODELS[case.model].build(case.size, device, precision, case.work)
    parameters = sum(p.numel() for p in model.root.parameters())
    if compiled:
        print(f"compiled blocks: {model.compile_frozen()}")
    work = jobs(model, case)
    with FlopCounterMode(display=False) as counter:
        train_cohort(model, work)
    if case.quantize == "4bit":
        quantize(MODELS[case.model].llm(model), precision)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    together: list[Any] = []
    alone: list[Any] = []

    def all_together() -> None:
        together[:] = train_cohort(model, work)
        _wait(device)

    def all_alone() -> None:
        alone[:] = [train_one(model, job) for job in work]
        _wait(device)

    peaks = [peak(all_together, device), peak(all_alone, device)]
    gap = max(_apart(a.tensors, b.tensors) for a, b in zip(together, alone, strict=True))
    ours, rival = interleaved(all_together, all_alone, repetitions)
    rate = matrix_rate(device, precision, 8192 if device.type == "cuda" else 1024)
    steps = case.clients * case.work.steps
    achieved = counter.get_total_flops() / median(ours)
    return {
        **{n: getattr(case, n) for n in ("model", "size", "dtype", "quantize", "clients")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "parameters": parameters,
        "seconds": ours,
        "rival_seconds": rival,
        "step": median(ours) / steps,
        "rival_step": median(rival) / steps,
        "positions_per_second": steps * case.work.batch * case.work.positions / median(ours),
        "operations": counter.get_total_flops(),
        "share": achieved / rate,
        "rival_share": counter.get_total_flops() / median(rival) / rate,
        "matrix_rate": rate,
        "peak": peaks[0],
        "rival_peak": peaks[1],
        "difference": gap,
    }


def row(figures: dict[str, Any], work: Work) -> Row:
    """The row of a case's figures."""
    frozen = figures["dtype"] if figures["quantize"] == "none" else f"nf4, products in {figures['dtype']}"
    what = (
        f"{figures['model']} {figures['size']}, {frozen}, {figures['clients']} clients x batch {work.batch} x "
        f"{work.positions} positions, two stages, on {figures['device']}"
    )
    note = (
        f"{figures['step']:.4f} s a client's step, rival {figures['rival_step']:.4f}; "
        f"{figures['positions_per_second']:.0f} positions/s; {figures['share']:.0%} of a matrix product's "
        f"{figures['matrix_rate'] / 1e12:.3f} TFLOP/s, rival {figures['rival_share']:.0%}; peak memory "
        f"{figures['peak'] / 2**30:.2f} GiB, rival {figures['rival_peak'] / 2**30:.2f} GiB; "
        f"{figures['parameters'] / 1e6:.1f} M parameters"
    )
    rival = "one PEFT client after another"
    times = figures["seconds"], figures["rival_seconds"]
    return Row("gpu", what, rival, "none", *times, figures["difference"], note)


def _apart(one: Any, other: Any) -> float:
    return max(float((one[n] - other[n]).abs().max()) for n in one)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str]) -> list[Row]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu")
    parser.add_argument("--model", choices=tuple(MODELS), default="vicuna-imagebind")
    parser.add_argument(
        "--size", choices=("full", "tiny"), default="full" if torch.cuda.is_available() else "tiny"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES))
    parser.add_argument("--quantize", choices=("none", "4bit"), default="none")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    device = choose_device(chosen.device)
    if chosen.size == "full" and device.type == "cpu":
        print(
            f"gpu: --size full needs a GPU, and there is none here; --size tiny runs on the CPU\n{surroundings()}"
        )
        return []
    dtype = chosen.dtype or ("bfloat16" if chosen.size == "full" else "float32")
    case = Case(chosen.model, chosen.size, dtype, chosen.quantize, chosen.clients, WORK[chosen.size])
    figures = measure(case, device, chosen.repetitions, chosen.compile)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    rows = [row(figures, case.work)]
    tell(rows)
    return rows
