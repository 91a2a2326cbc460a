"""Pre-train the tiny captioner on printed digits and their public descriptions: `fedloom foundation build captioner`.

Two BLIPs of transformers' own classes: one writes captions (cross-entropy of the next word); one, which starts from the first
one's towers as they were written, embeds pictures and texts (symmetric contrastive loss in which equal texts share the target).
No caption names a digit.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from fedloom.core.streams import torch_stream
from fedloom.data.digits import DIGITS, describe, printed
from fedloom.data.digits.describe import PUBLIC
from fedloom.data.digits.pictures import SIDE
from fedloom.models.generation.captioner import CAPTIONS, MATCHING, Captioner
from fedloom.models.pretraining.recipe import (
    HELD_OUT,
    SHIPPED,
    Clock,
    Log,
    descend,
    main,
    rate,
    report,
    save_half,
    seeded,
)

FOLDER = SHIPPED / "tiny-captioner"
STEPS = 1500
LR = 1.5e-3
PICTURES = 4000
POSITIONS = 64
PAD, START, END, CLASS = "[PAD]", "[DEC]", "[SEP]", "[CLS]"


def build(
    out_dir: str | Path,
    seed: int = 0,
    steps: int = STEPS,
    log: Log = print,
    device: str = "cpu",
    pictures: int = PICTURES,
    batch: int = 32,
    checks: int = 500,
) -> dict[str, Any]:
    """Train both models from scratch, write the folder, and measure what was written.

    Args:
        out_dir: folder for `Captioner.load`; `captions/` and `matching/` in it load in transformers; weights are float16.
        seed: decides the pictures, the initial weights and the order of the batches.
        steps: optimiser steps of the writer; the matcher takes half as many.
        log: takes one line of progress at a time.
        device: where to train.
        pictures: printed digits to train on.
        batch: pictures per step of the writer; the matcher, which compares them, takes twice as many.
        checks: held-out printed digits per measurement.

    Returns:
        "exact": share of held-out captions that are the description word for word; "phrases": phrases that both have over those
        that either has; "retrieval": share of held-out pictures whose nearest text, of all different ones, is their own; the last
        losses; "seconds".

    """
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

    clock = Clock()
    tokenizer = text_tokenizer(caption_words(), POSITIONS)
    config = BlipConfig(**blip_settings(tokenizer, side=SIDE, width=64, layers=2, positions=POSITIONS))
    shown, _ = printed(pictures, seed)
    texts = [describe(picture, 0) for picture in shown]
    ids = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    log(f"{len(shown)} pictures, {len(set(texts))} different texts after {clock}")
    metrics: dict[str, Any] = {}
    kinds = {
        CAPTIONS: (BlipForConditionalGeneration, written),
        MATCHING: (BlipForImageTextRetrieval, matched),
    }
    for name, (kind, loss) in kinds.items():
        with seeded(seed, "captioner", name):
            model = kind(config)
        if name == MATCHING:
            writer = Captioner.load(Path(out_dir) / CAPTIONS).writer
            model.vision_model.load_state_dict(writer.vision_model.state_dict())
            model.text_encoder.load_state_dict(writer.text_decoder.bert.state_dict())
        model.to(device)
        count, size = (steps, batch) if name == CAPTIONS else (max(steps // 2, 1), 2 * batch)
        metrics[f"loss/{name}"] = train(
            model, loss, shown, texts, ids, seed, count, size, partial(_log_named, log, name)
        )
        save_half(model, tokenizer, Path(out_dir) / name)
        (Path(out_dir) / name / "preprocessor_config.json").write_text(preprocessor(SIDE), encoding="utf-8")
    metrics |= measure(Captioner.load(out_dir, device=device), seed, checks)
    return report(metrics, clock, log)


def _log_named(log: Log, name: str, line: str) -> None:
    log(f"{name} {line}")


def caption_words() -> list[str]:
    """Words that are one token each: those of the public descriptions, and the classes' names."""
    return sorted({w for phrases in PUBLIC.values() for p in phrases for w in p.split()} | set(DIGITS))


def text_tokenizer(words: Iterable[str], positions: int) -> Any:
    """A byte-level BPE that knows `words` as single tokens, laid out as BLIP's: [CLS] text [SEP]; [DEC] begins a caption."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, START, END, CLASS]
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([f" {word}" for word in sorted(set(words))], trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{CLASS} $A {END}",
        special_tokens=[(CLASS, special.index(CLASS)), (END, special.index(END))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=START,
        sep_token=END,
        eos_token=END,
        cls_token=CLASS,
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def blip_settings(tokenizer: Any, *, side: int, width: int, layers: int, positions: int) -> dict[str, Any]:
    """Keywords of a BlipConfig for pictures of `side` pixels in patches of side / 4."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
        "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": side,
        "patch_size": side // 4,
        "initializer_range": 0.02,
        "projection_dim": width,
    }
    return {
        "text_config": text,
        "vision_config": vision,
        "projection_dim": width,
        "image_text_hidden_size": 2 * width // 3,
    }


def preprocessor(side: int) -> str:
    """The content of a preprocessor_config.json for square pictures of `side` pixels."""
    config = {
        "image_processor_type": "BlipImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    return json.dumps(config, indent=2) + "\n"


def written(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor, texts: Sequence[str]) -> Tensor:
    """Mean cross-entropy of the caption's tokens and its end."""
    start = model.config.text_config.bos_token_id
    inputs = ids.clone()
    inputs[:, 0] = start
    labels = inputs.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    return model(pixel_values=pixels, input_ids=inputs, attention_mask=mask, labels=labels).loss  # type: ignore[no-any-return]


def matched(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor, texts: Sequence[str]) -> Tensor:
    """Symmetric contrastive loss at temperature 0.07; equal texts share the target."""
    f = normalize(model.vision_proj(model.vision_model(pixel_values=pixels).last_hidden_state[:, 0]), dim=-1)
    states = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    g = normalize(model.text_proj(states[:, 0]), dim=-1)
    number = {text: i for i, text in enumerate(texts)}
    own = torch.tensor([number[text] for text in texts], device=f.device)
    equal = (own[:, None] == own[None]).to(f)
    targets = equal / equal.sum(1, keepdim=True)
    logits = f @ g.T / 0.07
    return -torch.stack([(targets * log_softmax(x, -1)).sum(-1).mean() for x in (logits, logits.T)]).mean()


def train(
    model: Any,
    loss_of: Callable[..., Tensor],
    shown: Tensor,
    texts: Sequence[str],
    ids: Any,
    seed: int,
    steps: int,
    batch: int,
    log: Log,
) -> float:
    """AdamW on random batches; returns the running mean of the last losses."""
    where = next(model.parameters()).device
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LR, weight_decay=0.05)
    draw = torch_stream(seed, "captioner", "batches")
    recent, clock = 0.0, Clock()
    model.train()
    for step in range(steps):
        chosen = torch.randint(len(shown), (batch,), generator=draw)
        mask = ids["attention_mask"][chosen]
        longest = int(mask.sum(1).max())
        pixels = moved(shown[chosen], draw).float() / 127.5 - 1
        loss = loss_of(
            model,
            pixels.to(where),
            ids["input_ids"][chosen, :longest].to(where),
            mask[:, :longest].to(where),
            [texts[i] for i in chosen.tolist()],
        )
        descend(optimiser, loss, LR * rate(step, steps))
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % max(steps // 10, 1) == 0:
            log(f"step {step + 1} of {steps}: loss {recent:.3f}, {clock}")
    model.eval()
    return round(recent, 4)


def moved(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """Each picture shifted by at most a pixel to each side, the border repeated: no description changes with that."""
    padded = torch.nn.functional.pad(pictures.float(), (1, 1, 1, 1))
    shifts = torch.randint(0, 3, (len(pictures), 2), generator=draw).tolist()
    side = pictures.shape[-1]
    return torch.stack([p[:, a : a + side, b : b + side] for p, (a, b) in zip(padded, shifts, strict=True)])


def measure(captioner: Captioner, seed: int, checks: int) -> dict[str, float]:
    """Accuracy of captions and of retrieval on held-out printed digits."""
    shown, _ = printed(checks, seed + HELD_OUT)
    references = [describe(picture, 0) for picture in shown]
    captions = captioner.caption(shown)
    exact = sum(s == w for s, w in zip(captions, references, strict=True)) / checks
    pairs = [(set(s.split(", ")), set(w.split(", "))) for s, w in zip(captions, references, strict=True)]
    phrases = sum(len(s & w) / len(s | w) for s, w in pairs) / checks
    different = sorted(set(references))
    nearest = (captioner.embed_pictures(shown) @ captioner.embed_texts(different).T).argmax(1).tolist()
    retrieval = sum(different[i] == w for i, w in zip(nearest, references, strict=True)) / checks
    return {
        name: round(value, 4)
        for name, value in (("exact", exact), ("phrases", phrases), ("retrieval", retrieval))
    }


if __name__ == "__main__":
    main(build, FOLDER)
