"""Evaluation of CLIP beside its training: a run of pFedMMA from the first evaluation to the last, at ViT-B/16's size.

`python -m benchmarks clip_evaluation [size] [clients] [shots] [test] [rounds] [method]` (vit-b16 2 2 2 1 pfedmma if none are
given). size is `tiny` (the shipped CLIP), `vit-b16`: random weights of its published shape with the shipped tokenizer, saved and
loaded by the real classes, or a folder. Data are 24 base and 24 novel classes of the small world, `shots` pictures of a class for
training and `test` for testing, and the rest as in experiments/pfedmma/main.yaml. The rival is the training: above 1 the
evaluations of all models before and after take less than the training between them. Work is counted in passes of one picture, or
one class's text, through one whole block. Two rows: the first run of a table, and another one that finds its pictures' features
in the cache.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import Row, clock, tell
from fedloom.core.hf_logging import quiet_hf
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.loop import Federation


def checkpoint(folder: Path) -> str:
    """A folder with a CLIP of ViT-B/16's shape, of random weights."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    from fedloom.models.pretraining.recipe import SHIPPED

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "tiny-clip")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    with quiet_hf():
        CLIPModel(CLIPConfig(vision_config={"patch_size": 16}, text_config=ends)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor"})
    )
    return str(folder)


def experiment(clip: str, clients: int, shots: int, test: int, rounds: int, method: str) -> Experiment:
    """The settings of pFedMMA's main table."""
    return Experiment.parse(
        {
            "method": method,
            "rounds": rounds,
            "data": {
                "source": "classes",
                "dataset": "tabletop48",
                "clients": {"image": clients},
                "train": shots,
                "test": test,
                "partition": {"kind": "few-shot", "shots": shots},
            },
            "model": {"clip": clip},
            "training": {
                "optimizer": "sgd",
                "lr": 0.001,
                "lr_schedule": "constant",
                "weight_decay": 0.0005,
                "clip": None,
                "epochs": 2,
                "batch_size": 8,
            },
            "engine": {"device": "cpu"},
            "evaluation": {"every": max(rounds, 1)},
        }
    )


class Watch:
    """Seconds of evaluation and of training, and the passes through blocks of both."""

    def __init__(self, federation: Federation) -> None:
        self.seconds: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self._now = ""
        towers: Any = federation.engine.model
        for tower in ("text", "vision"):
            for block in towers.towers._blocks(tower):
                block.register_forward_hook(self._counting(tower))
        federation.evaluator = _Timed(federation.evaluator, self)
        federation.engine.ask = self.timed("training", federation.engine.ask)  # type: ignore[method-assign]

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds counted as those of `what`."""

        def call(*arguments: Any, **named: Any) -> Any:
            self._now, began = what, clock()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[what] += clock() - began  # type: ignore[assignment]

        return call

    def _counting(self, tower: str) -> Callable[..., None]:
        def count(module: Any, inputs: Any, output: Any) -> None:
            self.passes[f"{tower} in {self._now}"] += len(inputs[0])

        return count


class _Timed:
    """An evaluator whose `assess` is timed."""

    def __init__(self, evaluator: Any, watch: Watch) -> None:
        self._evaluator = evaluator
        self.assess = watch.timed("evaluation", evaluator.assess)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)


def measure(clip: str, size: str, method: str, clients: int, shots: int, test: int, rounds: int) -> Row:
    """One run."""
    federation = build(experiment(clip, clients, shots, test, rounds, method), None, lambda progress: None)
    watch = Watch(federation)
    federation.run()
    passes = ", ".join(f"{what} {count}" for what, count in sorted(watch.passes.items()))
    return Row(
        "clip_evaluation",
        f"{size}, {method}, {clients} clients, {shots} shots, {test} test pictures a class, {rounds} rounds: evaluation",
        "the training between",
        "1",
        [watch.seconds["evaluation"]],
        [watch.seconds["training"]],
        note=f"passes through a block: {passes}",
    )


def main(arguments: list[str]) -> list[Row]:
    usual = ["vit-b16", "2", "2", "2", "1", "pfedmma"]
    size, clients, shots, test, rounds, method = [*arguments, *usual[len(arguments) :]]
    sizes = [int(n) for n in (clients, shots, test, rounds)]
    before = os.environ.get("FEDLOOM_CACHE")
    try:
        with tempfile.TemporaryDirectory() as place:
            clip = "tiny-clip" if size == "tiny" else size
            if size == "vit-b16":
                clip = checkpoint(Path(place) / "clip")
            os.environ["FEDLOOM_CACHE"] = str(Path(place) / "cache")
            rows = [measure(clip, f"{size}, {nth}", method, *sizes) for nth in ("first run", "another run")]
    finally:
        if before is None:
            del os.environ["FEDLOOM_CACHE"]
        else:
            os.environ["FEDLOOM_CACHE"] = before
    tell(rows)
    return rows
