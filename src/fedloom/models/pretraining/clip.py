"""Pre-train the tiny CLIP on the Tabletop world's public pictures of one object: `fedloom foundation build clip`.

Pictures of the 72 public combinations in the four public styles against captions that name them. In a batch several pictures
have the same name, so that the targets of the contrastive loss are soft: equal names share the mass. Captions vary in what
stands before the name, up to twenty words of filler in every fourth batch, so that a name is read at any place, as it is behind
a learned context. Light, haze and noise of the pictures vary, so that something is left where a style was never seen.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from fedloom.core.streams import numpy_stream, torch_stream
from fedloom.data.tabletop import PRIVATE_STYLES, PUBLIC_STYLES
from fedloom.data.tabletop.objects import (
    COMBINATIONS,
    NOVEL_COMBINATIONS,
    OBJECT_SIDE,
    PUBLIC_COMBINATIONS,
    Combination,
    class_name,
    object_sample,
)
from fedloom.data.tabletop.scene import COLOURS, SHAPES, TEXTURES
from fedloom.models.clip.towers import Towers
from fedloom.models.image_processing import Pixels
from fedloom.models.pretraining.augment import vary_light
from fedloom.models.pretraining.recipe import (
    HELD_OUT,
    SHIPPED,
    Clock,
    Log,
    descend,
    load_written,
    main,
    rate,
    report,
    save_half,
    seeded,
)

FOLDER = SHIPPED / "tiny-clip"
STEPS = 2000
LR = 1e-3
FRAMES = ("a photo of a {}.", "a picture of a {}.", "{}.", "this is a {}.", "there is a {} on the table.")
FILLER = "the a on of there is photo picture table small large one object with and it this left right"
NUMBERS = "zero one two three four five six seven eight nine digit handwritten number"
"""Filler words without content; and words that only the tokenizer knows."""
TEMPLATE = "a photo of a {}."
POSITIONS = 40
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": OBJECT_SIDE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": OBJECT_SIDE, "width": OBJECT_SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "do_convert_rgb": True,
}


def build(
    out_dir: str | Path,
    seed: int = 0,
    steps: int = STEPS,
    log: Log = print,
    device: str = "cpu",
    pictures: int = 40,
    batch: int = 128,
    checks: int = 4,
) -> dict[str, Any]:
    """Train from scratch, write the folder, and measure what was written.

    Args:
        out_dir: folder for `CLIPModel.from_pretrained`, with tokenizer and preprocessor; the weights are float16.
        seed: decides the pictures, the initial weights, the captions and the order of the batches.
        steps: optimiser steps.
        log: takes one line of progress at a time.
        device: where to train.
        pictures: pictures of each combination and style.
        batch: pairs per step.
        checks: held-out pictures of each combination and style per measurement.

    Returns:
        Zero-shot accuracies "public/seen", "private/novel/sketch" and so on, and "seconds".

    """
    from transformers import CLIPModel

    clock = Clock()
    tokenizer = clip_tokenizer()
    model = fresh_model(len(tokenizer), tokenizer, seed).to(device)
    images = torch.stack(
        [object_sample(seed, "public", i, c, s).modalities["image"] for c, s, i in _places(pictures)]
    )
    names = torch.arange(len(PUBLIC_COMBINATIONS)).repeat_interleave(len(PUBLIC_STYLES) * pictures)
    log(f"{len(images)} pictures after {clock}")
    train(model, tokenizer, images, names, seed, steps, batch, log)
    save_half(model, tokenizer, out_dir)
    text = json.dumps(PREPROCESSOR, indent=2) + "\n"
    (Path(out_dir) / "preprocessor_config.json").write_text(text, encoding="utf-8")
    written = load_written(CLIPModel, out_dir, device)
    metrics: dict[str, Any] = measure(Towers(written, tokenizer), seed, checks)
    return report(metrics, clock, log)


def _places(pictures: int) -> list[tuple[Combination, str, int]]:
    return [(c, s, i) for c in PUBLIC_COMBINATIONS for s in PUBLIC_STYLES for i in range(pictures)]


WORDS = (*SHAPES, *COLOURS, *TEXTURES, *FILLER.split(), *NUMBERS.split())


def clip_tokenizer(words: Iterable[str] = WORDS, positions: int = POSITIONS) -> Any:
    """A byte-level BPE that knows `words` as single tokens and any other text by its bytes.

    As in CLIP, the end of a text is the token with the highest number.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    start, end = "<|startoftext|>", "<|endoftext|>"
    known = sorted(set(words))
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=[start],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([f" {word}" for word in known], trainer)
    core.add_special_tokens([end])
    core.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, core.token_to_id(start)), (end, core.token_to_id(end))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def fresh_model(words: int, tokenizer: Any, seed: int) -> Any:
    """An untrained CLIPModel of 0.5 M parameters."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": words,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "projection_dim": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": OBJECT_SIDE,
        "patch_size": 8,
        "projection_dim": 64,
    }
    with seeded(seed, "tiny-clip", "weights"):
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def train(
    model: Any,
    tokenizer: Any,
    images: Tensor,
    names: Tensor,
    seed: int,
    steps: int,
    batch: int,
    log: Log,
) -> None:
    """Contrastive steps; `names` (N,) are numbers of PUBLIC_COMBINATIONS."""
    towers = Towers(model, tokenizer)
    model.requires_grad_(True)
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng, stream = numpy_stream(seed, "tiny-clip", "batches"), torch_stream(seed, "tiny-clip", "light")
    pixels = Pixels.of(PREPROCESSOR)
    words = [class_name(c) for c in PUBLIC_COMBINATIONS]
    clock, recent = Clock(), 0.0
    for step in range(steps):
        picked = torch.from_numpy(rng.integers(len(images), size=batch))
        own = names[picked]
        tokens = towers.tokens([caption(words[int(i)], rng, long=step % 4 == 0) for i in own])
        shown = pixels.normal(vary_light(images[picked], stream).to(model.device))
        f = towers.vision_out(towers.run("vision", towers.vision_in(shown)))
        g = towers.text_features(towers.embed(tokens.ids), tokens.end)
        equal = (own[:, None] == own[None]).to(f)
        targets = equal / equal.sum(1, keepdim=True)
        logits = model.logit_scale.exp() * f @ g.T
        both = torch.stack([(targets * log_softmax(x, -1)).sum(-1).mean() for x in (logits, logits.T)])
        loss = -both.mean()
        descend(optimiser, loss, LR * rate(step, steps))
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100.0)))
        recent = 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            log(f"step {step + 1}/{steps} {clock}: loss {recent:.3f}")


def caption(name: str, rng: np.random.Generator, *, long: bool) -> str:
    """A caption of a thing with this name; with `long` up to twenty filler words stand before it."""
    frame, words = FRAMES[int(rng.integers(len(FRAMES)))], FILLER.split()
    before = int(rng.integers(21)) if long else 0
    return " ".join([*(words[int(i)] for i in rng.integers(len(words), size=before)), frame.format(name)])


def measure(towers: Towers, seed: int, checks: int) -> dict[str, float]:
    """Zero-shot accuracy on held-out pictures, among the names of the same list.

    seen, novel: the 72 public and the 36 other combinations; of the private split over its styles, and for each of them.
    """
    towers.clip.eval()
    metrics: dict[str, float] = {}
    metrics["public/seen"] = accuracy(towers, seed, "public", PUBLIC_COMBINATIONS, PUBLIC_STYLES, checks)
    # Public styles, but combinations that no public picture shows.
    metrics["public-styles/novel"] = accuracy(
        towers, seed, "private", NOVEL_COMBINATIONS, PUBLIC_STYLES, checks
    )
    metrics["public-styles/all"] = accuracy(towers, seed, "private", COMBINATIONS, PUBLIC_STYLES, checks)
    for style in PRIVATE_STYLES:
        for kind, combinations in (("seen", PUBLIC_COMBINATIONS), ("novel", NOVEL_COMBINATIONS)):
            metrics[f"private/{kind}/{style}"] = accuracy(
                towers, seed, "private", combinations, (style,), checks
            )
    for kind in ("seen", "novel"):
        styles = [metrics[f"private/{kind}/{style}"] for style in PRIVATE_STYLES]
        metrics[f"private/{kind}"] = sum(styles) / len(styles)
    return {name: round(value, 4) for name, value in metrics.items()}


@torch.no_grad()
def accuracy(
    towers: Towers,
    seed: int,
    split: str,
    combinations: Sequence[Combination],
    styles: Sequence[str],
    checks: int,
) -> float:
    """Share of `checks` pictures of each combination and style whose name is the nearest among all `combinations`."""
    pixels = Pixels.of(PREPROCESSOR)
    tokens = towers.tokens([TEMPLATE.format(class_name(c)) for c in combinations])
    g = towers.text_features(towers.embed(tokens.ids), tokens.end)
    right = 0
    for style in styles:
        photos = [
            object_sample(seed, split, HELD_OUT + i, c, style).modalities["image"]
            for c in combinations
            for i in range(checks)
        ]
        hidden = towers.run("vision", towers.vision_in(pixels.normal(torch.stack(photos))))
        guess = (towers.vision_out(hidden) @ g.T).argmax(-1).cpu()
        right += int((guess == torch.arange(len(combinations)).repeat_interleave(checks)).sum())
    return right / (len(combinations) * checks * len(styles))


if __name__ == "__main__":
    main(build, FOLDER)
