"""A random generator and captioner, and an experiment of seconds for clients with models of their own."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fedloom.models.generation import checkpoint as generator_io
from fedloom.models.pretraining import captioner as build_captioner
from fedloom.models.pretraining.generator import fresh_parts

SIDE = 16
METHODS: dict[str, Any] = {"feddf": {"steps": 1}, "fedmmkt": {"vote": {"threshold": 0}}}
"""Settings that make a method quick."""


@cache
def _blip(kind: str) -> Any:
    import transformers

    tokenizer = build_captioner.text_tokenizer(build_captioner.caption_words(), build_captioner.POSITIONS)
    positions = build_captioner.POSITIONS
    settings = build_captioner.blip_settings(tokenizer, side=SIDE, width=24, layers=1, positions=positions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return getattr(transformers, kind)(transformers.BlipConfig(**settings)), tokenizer


def write(folder: Path) -> Path:
    """`t2i/` and `captioner/` with random weights."""
    generator_io.write(copy.deepcopy(fresh_parts(5)), folder / "t2i")
    kinds = {"captions": "BlipForConditionalGeneration", "matching": "BlipForImageTextRetrieval"}
    for name, kind in kinds.items():
        model, tokenizer = _blip(kind)
        model.save_pretrained(folder / "captioner" / name)
        tokenizer.save_pretrained(folder / "captioner" / name)
        file = folder / "captioner" / name / "preprocessor_config.json"
        file.write_text(build_captioner.preprocessor(SIDE), encoding="utf-8")
    return folder


def quick_settings(folder: Path, clients: int = 3) -> dict[str, Any]:
    """Three rounds: warm-up, the bootstrap, one fusion."""
    return {
        "name": "quick",
        "rounds": 3,
        "data": {
            "source": "labelled",
            "dataset": "handwriting",
            "clients": {"image": (clients + 1) // 2, "text": clients // 2},
            "train": 24,
            "test": 12,
            "dirichlet": None,
        },
        "model": {
            "width": 24,
            "synthesis": {
                "generator": str(folder / "t2i"),
                "captioner": str(folder / "captioner"),
                "per_class": 1,
                "steps": 2,
                "caption_tokens": 3,
                "batch_size": 4,
            },
        },
        "training": {"batch_size": 12, "lr": 0.001},
        "evaluation": {"every": 9, "generate": False, "controls": False, "samples": 2},
    }
