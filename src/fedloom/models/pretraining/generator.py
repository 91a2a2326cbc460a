"""Pre-train the tiny text-to-image model on printed digits: `fedloom foundation build t2i`.

A Stable Diffusion in small, of the same classes: first an autoencoder makes latents of 16 x 4 x 4 of pictures of 3 x 16 x 16;
then denoiser and text encoder learn together to predict the noise in them. Prompts are "a seven", "a picture of a seven", the
latter with the picture's public description behind it, or, every seventh time, nothing, which guidance needs. What is
written is the moving average of the weights.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.data.digits import DIGITS, describe, handwriting, printed
from fedloom.data.digits.describe import PUBLIC
from fedloom.data.digits.pictures import SIDE
from fedloom.data.tabletop.scene import COLOURS, SHAPES, TEXTURES
from fedloom.models.generation import checkpoint as generator_io
from fedloom.models.generation.checkpoint import Parts
from fedloom.models.generation.generator import Generator
from fedloom.models.pretraining.clip import clip_tokenizer
from fedloom.models.pretraining.recipe import (
    HELD_OUT,
    SHIPPED,
    Clock,
    Log,
    descend,
    main,
    rate,
    report,
    seeded,
)

FOLDER = SHIPPED / "tiny-t2i"
STEPS = 10_000
LR, AUTOENCODER_LR = 2e-3, 3e-3
PICTURES = 8000
POSITIONS = 48
KL = 3e-4
"""Weight of the latents' divergence from a normal distribution, as a mean over their numbers."""
AVERAGED = 0.995
"""Decay of the moving average of the weights."""


def build(
    out_dir: str | Path,
    seed: int = 0,
    steps: int = STEPS,
    log: Log = print,
    device: str = "cpu",
    pictures: int = PICTURES,
    batch: int = 32,
    checks: int = 200,
    classes: Sequence[str] = DIGITS,
) -> dict[str, Any]:
    """Train from scratch, write the folder, and measure what was written.

    Args:
        out_dir: folder for `StableDiffusionPipeline.from_pretrained`; the weights are float16.
        seed: decides the pictures, the initial weights, the prompts, the noise and the order of the batches.
        steps: optimiser steps of the denoiser; the autoencoder takes half as many, of half as many pictures.
        log: takes one line of progress at a time.
        device: where to train.
        pictures: printed digits to draw; those of other classes are dropped.
        batch: pictures per step.
        checks: sampled pictures, and held-out printed digits, per measurement.
        classes: classes to learn; fewer make a weak prior.

    Returns:
        "agreement", the share of samples that a classifier of printed digits takes for the prompted class: over `classes`, of
        each one, and with captions in the prompts; "oracle", that classifier's accuracy; last losses; the autoencoder's errors;
        seconds.

    """
    clock = Clock()
    shown, labels = printed(pictures, seed)
    known = torch.tensor([DIGITS[label] in classes for label in labels.tolist()])
    shown, labels = shown[known], labels[known]
    texts = [describe(picture, 0) for picture in shown]
    log(f"{len(shown)} pictures after {clock}")
    parts = fresh_parts(seed)
    for part in (parts.autoencoder, parts.denoiser, parts.text_encoder):
        part.to(device)
    metrics: dict[str, Any] = {}
    metrics["loss/autoencoder"] = train_autoencoder(
        parts, shown, seed, max(steps // 2, 1), max(batch // 2, 1), log
    )
    latents = encoded(parts, shown)
    parts.autoencoder.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    latents = latents * parts.autoencoder.config.scaling_factor
    names = [DIGITS[label] for label in labels.tolist()]
    metrics["loss/denoiser"] = train_denoiser(parts, latents, names, texts, seed, steps, batch, log)
    halves = [copy.deepcopy(p).half() for p in (parts.denoiser, parts.text_encoder, parts.autoencoder)]
    generator_io.write(
        Parts(halves[0], halves[1], parts.tokenizer, parts.scheduler, halves[2]), Path(out_dir)
    )
    metrics |= measure(Generator.load(out_dir, device), seed, checks, classes)
    return report(metrics, clock, log)


def known_classes(text: str) -> tuple[str, ...]:
    """Names out of DIGITS, by commas or spaces apart, in DIGITS' order. Raises ExperimentError for any other, and for none."""
    named = text.replace(",", " ").split()
    wrong = [name for name in named if name not in DIGITS]
    if wrong or not named:
        raise ExperimentError(
            f"--classes: {text!r} names {wrong[0] if wrong else 'none'}; name some of {', '.join(DIGITS)}"
        )
    return tuple(name for name in DIGITS if name in named)


def fresh_parts(seed: int) -> Parts:
    """Untrained parts: a denoiser of 0.7 M parameters, a text encoder and an autoencoder of 0.1 M each."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    public = {word for phrases in PUBLIC.values() for phrase in phrases for word in phrase.split()}
    words = {"a", "an", "picture", "photo", "of", "the", "digit", *public, *DIGITS}
    tokenizer = clip_tokenizer(words | {*SHAPES, *COLOURS, *TEXTURES}, POSITIONS)
    with seeded(seed, "generator", "init"):
        denoiser = UNet2DConditionModel(
            sample_size=SIDE // 4,
            in_channels=16,
            out_channels=16,
            block_out_channels=(64,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=POSITIONS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 32),
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            sample_size=SIDE,
            mid_block_add_attention=False,
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return Parts(denoiser, text, tokenizer, scheduler, autoencoder)


def train_autoencoder(parts: Parts, shown: Tensor, seed: int, steps: int, batch: int, log: Log) -> float:
    """Squared error of the pixels in [-1, 1], and a little of the latents' divergence; returns the running mean of the error."""
    model = parts.autoencoder.train()
    where = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), lr=AUTOENCODER_LR, weight_decay=0.0)
    draw = torch_stream(seed, "generator", "autoencoder")
    recent, clock = 0.0, Clock()
    with torch.no_grad():  # start with a small variance: noise as large as the latents would hide them
        model.quant_conv.bias[model.config.latent_channels :].fill_(-6.0)
    for step in range(steps):
        chosen = torch.randint(len(shown), (batch,), generator=draw)
        x = (shown[chosen].float() / 127.5 - 1).to(where)
        latent = model.encode(x).latent_dist
        noise = torch.randn(latent.mean.shape, generator=draw).to(where)
        error = mse_loss(model.decode(latent.mean + latent.std * noise).sample, x)
        divergence = (latent.mean.square() + latent.var - 1 - latent.logvar).mean() / 2
        descend(optimiser, error + KL * divergence, AUTOENCODER_LR * rate(step, steps))
        recent = error.item() if step == 0 else 0.98 * recent + 0.02 * error.item()
        if (step + 1) % max(steps // 10, 1) == 0:
            log(f"autoencoder step {step + 1} of {steps}: error {recent:.5f}, {clock}")
    model.eval()
    return round(recent, 5)


@torch.no_grad()
def encoded(parts: Parts, pictures: Tensor) -> Tensor:
    """Mean latents, unscaled."""
    where = next(parts.autoencoder.parameters()).device
    parts_of = (pictures[i : i + 256] for i in range(0, len(pictures), 256))
    halves = (part.to(where).float() / 127.5 - 1 for part in parts_of)
    return torch.cat([parts.autoencoder.encode(x).latent_dist.mode() for x in halves])


def prompt(name: str, caption: str, draw: torch.Generator) -> str:
    """One of the kinds of prompts for a picture of this class with this description."""
    kind, article = torch.rand(2, generator=draw).tolist()
    called = f"an {name}" if name == "eight" and article < 0.5 else f"a {name}"
    if kind < 0.15:
        return ""
    if kind < 0.35:
        return called
    return f"a picture of {called}" if kind < 0.6 else f"a picture of {called}, {caption}"


def train_denoiser(
    parts: Parts,
    latents: Tensor,
    names: Sequence[str],
    texts: Sequence[str],
    seed: int,
    steps: int,
    batch: int,
    log: Log,
) -> float:
    """Noise prediction by denoiser and text encoder; leaves the moving average of their weights in them."""
    where = latents.device
    weights = [*parts.denoiser.parameters(), *parts.text_encoder.parameters()]
    averages = [w.detach().clone() for w in weights]
    optimiser = torch.optim.AdamW(weights, lr=LR, weight_decay=0.01)
    draw = torch_stream(seed, "generator", "denoiser")
    parts.denoiser.train()
    recent, clock = 0.0, Clock()
    for step in range(steps):
        chosen = torch.randint(len(latents), (batch,), generator=draw)
        x = latents[chosen]
        prompts = [prompt(names[i], texts[i], draw) for i in chosen.tolist()]
        different = list(dict.fromkeys(prompts))
        ids = parts.tokenizer(
            different, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
        )["input_ids"].to(where)
        states = parts.text_encoder(ids)[0][[different.index(p) for p in prompts]]
        noise = torch.randn(x.shape, generator=draw).to(where)
        times = torch.randint(len(parts.scheduler.alphas_cumprod), (batch,), generator=draw).to(where)
        noisy = parts.scheduler.add_noise(x, noise, times)
        loss = mse_loss(parts.denoiser(noisy, times, encoder_hidden_states=states).sample, noise)
        descend(optimiser, loss, LR * rate(step, steps))
        kept = min(AVERAGED, step / (step + 10))
        with torch.no_grad():
            for average, weight in zip(averages, weights, strict=True):
                average.lerp_(weight, 1 - kept)
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if (step + 1) % max(steps // 20, 1) == 0:
            log(f"denoiser step {step + 1} of {steps}: loss {recent:.4f}, {clock}")
    with torch.no_grad():
        for average, weight in zip(averages, weights, strict=True):
            weight.copy_(average)
    parts.denoiser.eval()
    return round(recent, 4)


def oracle(seed: int, count: int = 3000) -> Any:
    """A support vector machine that reads printed digits: fitted on `count` of them, pixels in [0, 1]."""
    from sklearn.svm import SVC

    shown, labels = printed(count, seed + 2 * HELD_OUT)
    return SVC(C=10.0).fit(flat(shown), labels.numpy())


def flat(pictures: Tensor) -> np.ndarray[Any, Any]:
    """(N, H W) grey in [0, 1]."""
    return pictures.float().mean(1).flatten(1).numpy() / 255


def measure(generator: Generator, seed: int, checks: int, classes: Sequence[str]) -> dict[str, Any]:
    """Agreement of samples with their prompts, sampling time, and errors of the autoencoder."""
    reader = oracle(seed, 8 * checks)
    names = [classes[i % len(classes)] for i in range(checks)]
    numbers = np.array([DIGITS.index(name) for name in names])
    clock = Clock()
    samples = generator.sample(
        [f"a picture of a {n}" for n in names], torch_stream(seed, "generator", "checks")
    )
    seconds = clock.seconds
    right = reader.predict(flat(samples)) == numbers
    shown, labels = printed(checks, seed + HELD_OUT)
    captioned = [
        f"a picture of a {DIGITS[n]}, {describe(p, 0)}" for p, n in zip(shown, labels.tolist(), strict=True)
    ]
    described = generator.sample(captioned, torch_stream(seed, "generator", "told"))
    metrics: dict[str, Any] = {
        "agreement": float(right.mean()),
        "agreement/with captions": float((reader.predict(flat(described)) == labels.numpy()).mean()),
        "oracle": float(reader.score(flat(shown), labels.numpy())),
        "seconds/100 pictures": 100 * seconds / checks,
    }
    metrics |= {f"agreement/{n}": float(right[np.array(names) == n].mean()) for n in classes}
    for name, pictures in (("printed", shown), ("handwriting", handwriting()[0][:checks])):
        metrics[f"autoencoder/{name}"] = _lost(generator, pictures)
    return {name: round(value, 4) for name, value in metrics.items()}


@torch.no_grad()
def _lost(generator: Generator, pictures: Tensor) -> float:
    """Root mean square error of pictures through the autoencoder, in grey levels of 255."""
    x = (pictures.float() / 127.5 - 1).to(generator.device)
    again = generator.autoencoder.decode(generator.autoencoder.encode(x).latent_dist.mode()).sample.clamp(
        -1, 1
    )
    return float((again - x).square().mean().sqrt() * 127.5)


if __name__ == "__main__":
    main(build, FOLDER)
