"""Cohort training at the size of the papers' models, with random weights: tokens/s, share of the device's matrix rate, memory.

`python -m benchmarks gpu [--size full|tiny] [--clients N] [--repetitions N] [--compile] [--device NAME]`

`full` is Vicuna-7B's and ImageBind-huge's shapes (its image trunk) in bfloat16, `tiny` the same classes in a small size, for a
CPU. Weights go from the meta device to the device by a seeded draw, never through the CPU's memory. Ten clients with 4
samples of 128 positions per step train two stages of two steps each (tau = 0.5, so that both stages count). The rival runs the
same jobs one PEFT client after another, in the same run and precision.

The share is PyTorch's count of floating-point operations of one cohort per second, over the rate of one large matrix product in
the foundation's precision.
"""

import argparse
import resource
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.report import Row, clock, interleaved, surroundings, tell
from fedloom.core.streams import torch_stream
from fedloom.models.imagebind.config import ImageBindConfig
from fedloom.models.imagebind.imagebind import ImageBind
from fedloom.models.load import choose_device
from fedloom.models.lora.layers import LoRA
from fedloom.models.mllm.load import foundation_folder
from fedloom.models.mllm.mllm import MLLM, MLLMExample
from fedloom.models.mllm.pieces import Pieces
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training

BATCH, POSITIONS, ANSWER, STEPS = 4, 128, 16, 4
VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
SMALL = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4}


def foundation(size: str, device: torch.device, precision: torch.dtype) -> AdaptedMLLM:
    """The assembled model with fresh adapters, its frozen weights drawn on the device."""
    tokenizer = AutoTokenizer.from_pretrained(foundation_folder("tiny-mllm") / "llm")
    full = size == "full"
    config = LlamaConfig(
        vocab_size=32000 if full else 512, max_position_embeddings=2048, **(VICUNA_7B if full else SMALL)
    )
    with torch.device("meta"):
        llm = LlamaForCausalLM(config)
        encoder = ImageBind(ImageBindConfig.huge() if full else ImageBindConfig.tiny(), ["image"])
    for name, module in (("llm", llm), ("encoder", encoder)):
        draw(module.to(precision), name, device)
    rotary = llm.model.rotary_emb  # its buffers are computed, not stored
    llm.model.rotary_emb = type(rotary)(config=config).to(device)
    mllm = MLLM.assemble(encoder.eval(), llm.eval(), tokenizer)
    mllm.projector.to(device)
    model = AdaptedMLLM(mllm, LoRA(), LoRA(), seed=0)
    model.cast_frozen(precision)
    return model


@torch.no_grad()
def draw(module: nn.Module, name: str, device: torch.device) -> None:
    """Materialise a meta module on `device`: matrices N(0, 0.02^2), vectors 1 for norms, else 0."""
    module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(torch_stream(0, "benchmark", name).initial_seed())
    for part in module.modules():
        for place, parameter in part.named_parameters(recurse=False):
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if type(part).__name__.endswith("Norm") and place == "weight" else 0.0)


def jobs(model: AdaptedMLLM, clients: int) -> list[LocalJob]:
    """A job per client: STEPS steps in two stages, every tensor."""
    training = Training(batch_size=BATCH, tau=0.5)
    names = frozenset(model.tensors)
    return [
        LocalJob(f"client-{k:02d}", samples(model, k), model.start, names, training, 0, 1, 1, {})
        for k in range(clients)
    ]


def samples(model: AdaptedMLLM, client: int) -> list[MLLMExample]:
    """Images of noise and random token ids: one soft token, and POSITIONS positions in all."""
    generator = torch_stream(0, "samples", client)
    shape = model.mllm.encoder.config.modalities["image"].input_shape  # type: ignore[union-attr, union-attr]
    vocab = model.mllm.llm.config.vocab_size
    examples = []
    for i in range(BATCH * STEPS):
        ids = torch.randint(3, vocab, (POSITIONS - 1,), generator=generator).tolist()
        pieces = Pieces((tuple(ids[:8]), "image", tuple(ids[8:-ANSWER])), tuple(ids[-ANSWER:]), False)
        examples.append(
            MLLMExample(
                f"{client}/{i}", "image", {"image": torch.randn(shape, generator=generator)}, pieces, ""
            )
        )
    return examples


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


def peak(device: torch.device) -> int:
    """Peak bytes of the device's memory, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: str, device: torch.device, clients: int, repetitions: int, compiled: bool) -> list[Row]:
    precision = torch.bfloat16 if size == "full" else torch.float32
    model = foundation(size, device, precision)
    if compiled:
        print(f"compiled blocks: {model.compile_frozen()}")
    work = jobs(model, clients)
    with FlopCounterMode(display=False) as counter:
        outcomes = train_cohort(model, work)
    done = [o for o in outcomes if not isinstance(o, Exception)]
    one = [train_one(model, job) for job in work]
    gap = max(_apart(a.tensors, b.tensors) for a, b in zip(done, one, strict=True))

    def all_alone() -> None:
        for job in work:
            train_one(model, job)
        _wait(device)

    def all_together() -> None:
        train_cohort(model, work)
        _wait(device)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ours = [seconds(all_together, device) for _ in range(2)]
    most = peak(device)
    ours, rival = interleaved(all_together, all_alone, repetitions)
    middle = statistics.median(ours)
    rate = matrix_rate(device, precision, 8192 if device.type == "cuda" else 1024)
    tokens = clients * BATCH * STEPS * POSITIONS
    achieved = counter.get_total_flops() / middle
    note = (
        f"{tokens / middle:.0f} positions/s; {achieved / 1e12:.3f} TFLOP/s, {achieved / rate:.0%} of a matrix product's "
        f"{rate / 1e12:.3f}; peak memory {most / 2**30:.2f} GiB; "
        f"{sum(p.numel() for p in model.root.parameters()) / 1e6:.1f} M parameters in {str(precision).removeprefix('torch.')}"
    )
    what = f"{size}, {clients} clients x batch {BATCH} x {POSITIONS} positions, two stages, on {device}"
    return [Row("gpu", what, "one PEFT client after another", "none", ours, rival, gap, note)]


def _apart(one: Any, other: Any) -> float:
    return max(float((one[n] - other[n]).abs().max()) for n in one)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str]) -> list[Row]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu")
    parser.add_argument(
        "--size", choices=("full", "tiny"), default="full" if torch.cuda.is_available() else "tiny"
    )
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    device = choose_device(chosen.device)
    if chosen.size == "full" and device.type == "cpu":
        print(
            f"gpu: --size full needs a GPU, and there is none here; --size tiny runs on the CPU\n{surroundings()}"
        )
        return []
    rows = measure(chosen.size, device, chosen.clients, chosen.repetitions, chosen.compile)
    tell(rows)
    return rows
