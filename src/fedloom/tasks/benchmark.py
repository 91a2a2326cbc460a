"""Benchmarks of a multimodal LLM: yes or no questions about objects, retrieval, and public suites."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.data.sources import benchmarks
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.tasks.metrics.yes_no import letter, yes_no
from fedloom.tasks.metrics.yes_no import mme as mme_score

FIRST = 900_000_000
"""Tabletop's scenes from this number on are for benchmarks."""


def yes_no_scenes(count: int, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Yes or no questions ("is there a red cube?") and captions of `count` private scenes that no client ever has."""
    from fedloom.data.tabletop import Tabletop

    world = Tabletop(seed)
    asked = [world.sample("private", FIRST + i, "image", question="exist") for i in range(count)]
    asked = [
        replace(s, meta={**s.meta, "benchmark": "pope", "truth": s.answer.split()[0], "image": s.uid})
        for s in asked
    ]
    return asked, [world.sample("private", FIRST + i, "caption") for i in range(count)]


@torch.no_grad()
def answers(
    model: AdaptedMLLM, samples: Sequence[Sample], max_new_tokens: int = 16, batch: int = 64
) -> list[str]:
    """The model's answer to every sample."""
    found: list[str] = []
    for start in range(0, len(samples), batch):
        examples = [model.prepare(s) for s in samples[start : start + batch]]
        found += model.generate(examples, max_new_tokens)
    return found


def score(samples: Sequence[Sample], said: Sequence[str]) -> dict[str, float]:
    """The figures of one benchmark's samples, by its own rules."""
    meta = [s.meta for s in samples]
    truths = [str(m["truth"]) for m in meta]
    kind = meta[0]["benchmark"]
    if kind == "mmbench":
        told = [letter(a, m["choices"]) for a, m in zip(said, meta, strict=True)]
        right = [a == t for a, t in zip(told, truths, strict=True)]
        found = {"accuracy": sum(right) / len(right)}
        count = Counter(str(m["category"]) for m in meta)
        hits = Counter(str(m["category"]) for m, r in zip(meta, right, strict=True) if r)
        return {**found, **{f"accuracy/{c}": hits[c] / n for c, n in sorted(count.items())}}
    if kind == "mme":
        return mme_score(said, truths, [str(m["image"]) for m in meta], [str(m["category"]) for m in meta])
    return yes_no(said, truths)


@torch.no_grad()
def retrieval(model: AdaptedMLLM, captions: Sequence[Sample], candidates: int = 8) -> dict[str, float]:
    """R@1 between pictures and captions.

    `r1_likelihood`: each picture picks, among `candidates` captions of which one is its own, the one that is most likely per
    token after it (chance 1 / candidates). `r1_embedding`: each picture picks among all captions by the cosine between the mean
    of its projected tokens and the mean of the caption's token embeddings, both centred (chance 1 / N). Captions that occur
    twice are asked once.
    """
    own = list({s.answer: s for s in captions}.values())
    own = own[: len(own) // candidates * candidates] or own
    right = 0
    for start in range(0, len(own), candidates):
        part = own[start : start + candidates]
        pairs = [model.prepare(replace(s, answer=other.answer)) for s in part for other in part]
        losses = model.losses(pairs, range(len(pairs)), len(pairs)).reshape(len(part), len(part))
        right += int((losses.argmin(1).cpu() == torch.arange(len(part))).sum())
    pictures, texts = _vectors(model, own)
    near = (normalize(pictures, dim=1) @ normalize(texts, dim=1).T).argmax(1).cpu()
    return {
        "r1_likelihood": right / len(own),
        "r1_embedding": float((near == torch.arange(len(own))).double().mean()),
        "candidates": float(min(candidates, len(own))),
        "captions": float(len(own)),
    }


def _vectors(model: AdaptedMLLM, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(N, d_llm) each, centred: means of projected picture tokens, and of the captions' token embeddings."""
    mllm = model.mllm
    table: Any = mllm.llm.get_input_embeddings()  # type: ignore[operator]
    pictures, texts = [], []
    for sample in samples:
        example = model.prepare(sample)
        (features,) = model.features([example])
        pictures.append(mllm.project("image", features["image"]).mean(0))
        ids = torch.tensor(example.pieces.answer, device=mllm.device)
        texts.append(table(ids).mean(0))
    one, two = torch.stack(pictures).double(), torch.stack(texts).double()
    return one - one.mean(0), two - two.mean(0)


@dataclass(frozen=True)
class Suites:
    """The benchmarks to ask: `tabletop` scenes of the small world, and the files of public ones. None are left out."""

    tabletop: int = 0
    pope: Path | None = None
    mme: Path | None = None
    mmbench: Path | None = None
    images: Path = Path()


def measured(model: AdaptedMLLM, suites: Suites) -> dict[str, float]:
    """`<benchmark>/<figure>` of a model for the suites that are named. Raises ExperimentError where none is."""
    figures: dict[str, float] = {}
    parts: dict[str, list[Sample]] = {}
    if suites.tabletop:
        parts["tabletop"], captions = yes_no_scenes(suites.tabletop)
        figures |= {f"retrieval/{n}": v for n, v in retrieval(model, captions).items()}
    if suites.pope is not None:
        parts["pope"] = benchmarks.load_pope(suites.pope, suites.images)
    if suites.mme is not None:
        parts["mme"] = benchmarks.load_mme(suites.mme, suites.images)
    if suites.mmbench is not None:
        parts["mmbench"] = benchmarks.load_mmbench(suites.mmbench)
    if not parts:
        raise ExperimentError("there is nothing to ask; give --tabletop 200, --pope, --mme or --mmbench")
    for name, samples in parts.items():
        figures |= {f"{name}/{n}": v for n, v in score(samples, answers(model, samples)).items()}
    return figures
