"""Time per round and peak memory by number of clients, rank and width; draws `docs/scaling.svg`.

`python -m benchmarks scaling [repetitions] [FILE]` (3 and docs/scaling.svg if none are given); a few minutes.

Image clients train both stages with batch 2 (`whole` of `benchmarks.cohort`); 10 clients, rank 8 and LLM width 128 except along
the axis. Another width is the shipped foundation with an untrained language model of that width. Every point is a
process of its own: the median of its rounds after the first, and its peak resident memory, foundation and libraries included.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.child import child
from benchmarks.peak import most_resident
from benchmarks.report import ROOT, surroundings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = {"clients": 10, "rank": 8, "width": 128}
AXES = {"clients": (5, 10, 20, 40), "rank": (4, 8, 16, 32), "width": (64, 128, 256, 512)}
STEM = {"clients": "clients", "rank": "LoRA rank r", "width": "width of the language model"}


def foundation(width: int, folder: Path) -> str:
    """The shipped foundation's name, or a folder with one of another language model width."""
    if width == BASE["width"]:
        return "tiny-mllm"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from fedloom.models.mllm.load import foundation_folder
    from fedloom.models.mllm.mllm import MLLM

    shipped = foundation_folder("tiny-mllm")
    mllm = MLLM.from_pretrained(shipped)
    shape = AutoConfig.from_pretrained(shipped / "llm")
    heads = width // shape.head_dim
    shape.hidden_size, shape.intermediate_size = width, width * 5 // 2
    shape.num_attention_heads = shape.num_key_value_heads = heads
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(shape)
    MLLM.assemble(mllm.encoder, llm, mllm.tokenizer, mllm.config).save_pretrained(folder)
    return str(folder)


def point(clients: int, rank: int, width: int, repetitions: int) -> dict[str, float]:
    """Seconds of a round and peak bytes, of this process."""
    from benchmarks.cohort import Ours, experiment
    from fedloom.experiment.settings import Experiment

    with tempfile.TemporaryDirectory() as folder:
        fields = experiment("whole", clients, 2, repetitions + 2).as_dict()
        lora = {"rank": rank, "alpha": rank}
        fields["model"] |= {"foundation": foundation(width, Path(folder))}
        fields["model"] |= {n: fields["model"][n] | lora for n in ("llm_lora", "encoder_lora")}
        ours = Ours(Experiment.parse(fields))
    ours.run()
    return {"seconds": median(ours.whole[1:]), "peak": most_resident()}


def measure(axes: Mapping[str, tuple[int, ...]], repetitions: int) -> dict[str, dict[int, dict[str, float]]]:
    """Every axis's points, each in a process of its own, printed one by one."""
    measured: dict[str, dict[int, dict[str, float]]] = {}
    for axis, values in axes.items():
        for value in values:
            at = BASE | {axis: value}
            figures = child("scaling", *at.values(), repetitions)
            measured.setdefault(axis, {})[value] = figures
            print(
                f"{axis} {value}: {figures['seconds']:.3f} s per round, peak {figures['peak'] / 1e6:.0f} MB",
                flush=True,
            )
    return measured


def draw(measured: dict[str, dict[int, dict[str, float]]], path: Path) -> "Figure":
    """Two rows of plots: seconds and megabytes, one column per axis; all plots of a row have one scale."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        grid = figure.subplots(2, len(measured), sharey="row", squeeze=False)
        for row, (key, unit, divisor) in enumerate((("seconds", "s per round", 1), ("peak", "peak MB", 1e6))):
            largest = max(p[key] / divisor for points in measured.values() for p in points.values())
            for column, (axis, points) in enumerate(measured.items()):
                axes = grid[row][column]
                axes.plot(
                    list(points), [p[key] / divisor for p in points.values()], marker="o", color="#1f5f8b"
                )
                axes.set_ylim(0, 1.05 * largest)
                axes.set_xticks(list(points))
                axes.grid(alpha=0.3)
                axes.spines[["top", "right"]].set_visible(False)
                if row:
                    axes.set_xlabel(STEM[axis])
                if not column:
                    axes.set_ylabel(unit)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return figure


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        clients, rank, width, repetitions = map(int, arguments[1:])
        print(json.dumps(point(clients, rank, width, repetitions)))
        return
    repetitions = int(arguments[0]) if arguments else 3
    path = Path(arguments[1]) if len(arguments) > 1 else ROOT / "docs" / "scaling.svg"
    draw(measure(AXES, repetitions), path)
    print(f"{path}\n{surroundings()}")
