"""Seconds and peak memory of one local epoch of every method on CLIP.

`python -m benchmarks clip [size] [classes] [shots] [batch]`. size is `tiny` (the shipped CLIP) or `vit-b16` (its published shape
with random weights); default: vit-b16 on a GPU, else tiny. Every method is a process of its own. Memory is the addition of
training to the loaded model and its prepared pictures: resident memory on a CPU, allocated memory on a GPU. The first epoch is
not counted: it passes every picture through the frozen blocks once; the column `first epoch` shows it.
"""

import json
import resource
import time
from typing import Any

import torch

from benchmarks.child import child
from benchmarks.report import Row, surroundings

METHODS: dict[str, dict[str, Any]] = {
    "promptfl": {},
    "cocoop-fedavg": {},
    "fedpgp": {},
    "fedotp": {},
    "pfedmoap": {},
    "pfedmma": {},
    "mma": {"preset": "released"},
}


def model(method: Any, size: str, classes: int) -> Any:
    """The method's model with `classes` classes."""
    from transformers import CLIPConfig, CLIPModel

    from fedloom.data.pictures.class_names import Classes
    from fedloom.models.clip.checkpoint import load_clip_checkpoint
    from fedloom.models.clip.towers import Towers
    from fedloom.models.clip.trainable import AdaptedCLIP
    from fedloom.models.image_processing import Pixels
    from fedloom.models.weights import Weights

    device = "cuda" if torch.cuda.is_available() else "cpu"
    towers, pixels = load_clip_checkpoint("tiny-clip", Weights(torch.device(device)))
    if size == "vit-b16":
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).to(device)
        towers, pixels = Towers(clip, towers.tokenizer), Pixels.of({})
    names = tuple(f"thing {i}" for i in range(classes))
    return AdaptedCLIP(towers, pixels, Classes(names), method.clip_adapter, seed=0)


def measure(name: str, size: str, classes: int, shots: int, batch: int, epochs: int = 3) -> dict[str, float]:
    """One client's epoch over `classes` x `shots` random pictures, with the experts of a second participation, if any."""
    from fedloom.data.sample import Sample
    from fedloom.methods import METHODS as ALL
    from fedloom.models.training.loop import LocalJob, train_one
    from fedloom.models.training.settings import Training

    fields = dict(METHODS[name])
    depth = 3 if size == "tiny" else 12
    if fields.get("preset") == "released" and depth < 8:
        fields["blocks"] = depth
    method = ALL[name].model_validate(fields)
    adapted = model(method, size, classes)
    draw = torch.Generator().manual_seed(0)
    examples = [
        adapted.prepare(
            Sample(
                str(i),
                {"image": torch.randint(0, 256, (3, 32, 32), generator=draw, dtype=torch.uint8)},
                "",
                f"thing {i % classes}",
                {"classes": "base", "label": i % classes},
            )
        )
        for i in range(classes * shots)
    ]
    start = dict(adapted.start)
    if "experts/contexts" in start:
        start["experts/contexts"] = 0.02 * torch.randn(start["experts/contexts"].shape, generator=draw)
    training = Training(optimizer="sgd", lr=1e-3, clip=None, batch_size=batch)
    names = frozenset(n for n in adapted.tensors if method.scope.role(n) != "frozen")
    before, seconds = _memory(), []
    for number in range(epochs + 1):
        job = LocalJob("one", examples, start, names, training, 0, number + 1, epochs + 1, {})
        began = time.perf_counter()
        outcome = train_one(adapted, job)
        seconds.append(time.perf_counter() - began)
    figures = {"first": seconds[0], "seconds": sorted(seconds[1:])[epochs // 2], "steps": outcome.steps}
    return figures | {"mib": (_memory() - before) / 2**20}


def _memory() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        name, size, *rest = arguments[1:]
        print(json.dumps(measure(name, size, *map(int, rest))))
        return []
    usual = ["vit-b16" if torch.cuda.is_available() else "tiny", "10", "16", "16"]
    options = [*arguments, *usual[len(arguments) :]]
    print(
        f"{options[0]}, {options[1]} classes, {options[2]} pictures of each, batch {options[3]}; one epoch of one client"
    )
    print("| method | epoch s | first epoch s | steps | MiB more |\n|---|---|---|---|---|")
    for name in METHODS:
        try:
            figures = child("clip", name, *options)
        except SystemExit as error:  # such as out of memory: the other methods may fit
            print(f"| {name} | not measured: {str(error).splitlines()[-1]} |")
            continue
        cells = (
            f"{figures['seconds']:.3f} | {figures['first']:.3f} | {figures['steps']} | {figures['mib']:.0f}"
        )
        print(f"| {name} | {cells} |", flush=True)
    print(surroundings())
    return []
