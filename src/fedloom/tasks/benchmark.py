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
"""First scene number reserved for benchmarks."""


def yes_no_scenes(count: int, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Yes or no questions ("is there a red cube?") and captions of `count` private scenes that no client holds."""
    from fedloom.data.tabletop import Tabletop

    world = Tabletop(seed)
    questions = [world.sample("private", FIRST + i, "image", question="exist") for i in range(count)]
    questions = [
        replace(s, meta={**s.meta, "benchmark": "pope", "truth": s.answer.split()[0], "image": s.uid})
        for s in questions
    ]
    return questions, [world.sample("private", FIRST + i, "caption") for i in range(count)]


@torch.no_grad()
def answers(
    model: AdaptedMLLM, samples: Sequence[Sample], max_new_tokens: int = 16, batch: int = 64
) -> list[str]:
    """The model's answer to every sample."""
    texts: list[str] = []
    for start in range(0, len(samples), batch):
        examples = [model.prepare(s) for s in samples[start : start + batch]]
        texts += model.generate(examples, max_new_tokens)
    return texts


def score(samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
    """Metrics of one benchmark's samples, by its own rules; empty without samples."""
    if not samples:
        return {}
    meta = [s.meta for s in samples]
    truths = [str(m["truth"]) for m in meta]
    kind = meta[0]["benchmark"]
    if kind == "mmbench":
        letters = [letter(a, m["choices"]) for a, m in zip(predictions, meta, strict=True)]
        right = [a == t for a, t in zip(letters, truths, strict=True)]
        metrics = {"accuracy": sum(right) / len(right)}
        count = Counter(str(m["category"]) for m in meta)
        hits = Counter(str(m["category"]) for m, r in zip(meta, right, strict=True) if r)
        return {**metrics, **{f"accuracy/{c}": hits[c] / n for c, n in sorted(count.items())}}
    if kind == "mme":
        return mme_score(
            predictions, truths, [str(m["image"]) for m in meta], [str(m["category"]) for m in meta]
        )
    return yes_no(predictions, truths)


@torch.no_grad()
def retrieval(model: AdaptedMLLM, captions: Sequence[Sample], candidates: int = 8) -> dict[str, float]:
    """R@1 between pictures and captions.

    `r1_likelihood`: each picture retrieves, from its own and `candidates` - 1 other captions, the one with the highest likelihood
    per token (chance 1 / candidates). `r1_embedding`: each picture retrieves from all N captions by cosine between the mean of
    its projected tokens and the mean of the caption's token embeddings, both centred (chance 1 / N). Equal captions count once.
    Empty where there is nothing to choose from.
    """
    own = list({s.answer: s for s in captions}.values())
    own = own[: len(own) // candidates * candidates] or own
    if min(candidates, len(own)) < 2:
        return {}
    right = 0
    for start in range(0, len(own), candidates):
        part = own[start : start + candidates]
        pairs = [model.prepare(replace(s, answer=other.answer)) for s in part for other in part]
        losses = model.losses(pairs, range(len(pairs)), len(pairs)).reshape(len(part), len(part))
        right += int((losses.argmin(1).cpu() == torch.arange(len(part))).sum())
    pictures, texts = _vectors(model, own)
    nearest = (normalize(pictures, dim=1) @ normalize(texts, dim=1).T).argmax(1).cpu()
    return {
        "r1_likelihood": right / len(own),
        "r1_embedding": float((nearest == torch.arange(len(own))).double().mean()),
        "candidates": float(min(candidates, len(own))),
        "captions": float(len(own)),
    }


def _vectors(model: AdaptedMLLM, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(N, d_llm) each, centred: mean projected picture tokens, and mean token embeddings of the captions."""
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
    """The benchmarks to run: number of `tabletop` scenes, and files of public benchmarks; None leaves one out."""

    tabletop: int = 0
    pope: Path | None = None
    mme: Path | None = None
    mmbench: Path | None = None
    images: Path = Path()


def measured(model: AdaptedMLLM, suites: Suites) -> dict[str, float]:
    """`<benchmark>/<metric>` of a model on the named suites. Raises ExperimentError if none is named."""
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
