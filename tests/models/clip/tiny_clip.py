"""A CLIP of random weights, a few words and a few pictures: what tests of methods on CLIP stand on. Nothing is square."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from fedloom.data.client_data import ClientData
from fedloom.data.pictures.class_names import Classes
from fedloom.data.sample import Sample
from fedloom.models.clip.towers import Towers
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.image_processing import Pixels

CLASSES = Classes(
    ("red cube", "blue ball", "green_cone", "star", "pink ring"), ("red star", "green cube", "ball")
)
SIDE = 16
PREPROCESSOR = {
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.6],
    "image_std": [0.25, 0.3, 0.2],
}
WORDS = [
    "a",
    "photo",
    "of",
    "red",
    "blue",
    "green",
    "pink",
    "cube",
    "ball",
    "cone",
    "star",
    "ring",
    "X",
    ".",
    "<start>",
    "<end>",
]
TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
VISION = {"hidden_size": 20, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 2}


def tokenizer() -> Any:
    """One token a word; the end of text has the highest number, as in CLIP."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="X"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<start>", eos_token="<end>", pad_token="<end>"
    )


def clip(seed: int = 0, **text: Any) -> CLIPModel:
    """Random weights, larger than a fresh CLIP's, so that nothing is nearly zero."""
    ids = {"vocab_size": len(WORDS), "bos_token_id": len(WORDS) - 2, "eos_token_id": len(WORDS) - 1}
    shape = {
        **TEXT,
        **ids,
        "pad_token_id": len(WORDS) - 1,
        "max_position_embeddings": 30,
        "projection_dim": 32,
    }
    vision = {**VISION, "image_size": SIDE, "patch_size": 8, "projection_dim": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config={**shape, **text}, vision_config=vision, projection_dim=32))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(1.7)
            model.logit_scale.fill_(2.0)
    return model.eval()


def towers(seed: int = 0, dtype: torch.dtype = torch.float32, **text: Any) -> Towers:
    return Towers(clip(seed, **text).to(dtype), tokenizer())


def adapted(
    method: Any, seed: int = 0, dtype: torch.dtype = torch.float32, on: Towers | None = None
) -> AdaptedCLIP:
    """The model that a method needs."""
    on = on or towers(dtype=dtype)
    return AdaptedCLIP(on, Pixels.of(PREPROCESSOR), CLASSES, method.clip_adapter, seed=seed)


def sample(number: int, label: int, kind: str = "base", **meta: Any) -> Sample:
    """A picture whose colours go by its class, with noise of its own."""
    draw = torch.Generator().manual_seed(1000 * label + number)
    image = torch.randint(0, 256, (3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    image[label % 3] //= 2 + label
    names = CLASSES.base if kind == "base" else CLASSES.novel
    return Sample(
        f"{kind}/{label}/{number}",
        {"image": image},
        "",
        names[label],
        {"classes": kind, "label": label, **meta},
    )


def silos(clients: int = 3, train: int = 7, test: int = 2) -> list[ClientData]:
    """Clients with mixes of their own: client k holds the classes k, k+1 (mod 5)."""
    return [
        ClientData(
            f"client-{k + 1:02d}",
            [sample(100 * k + i, (k + i % 2) % 5) for i in range(train + k)],
            [sample(5000 + 100 * k + i, (k + i % 2) % 5) for i in range(test)],
        )
        for k in range(clients)
    ]


def write(folder: Path) -> Path:
    """The CLIP in `folder/clip`, as `from_pretrained` reads it, and 16 classes of four pictures each in `folder/pictures`."""
    clip().save_pretrained(folder / "clip")
    tokenizer().save_pretrained(folder / "clip")
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    draw = np.random.default_rng(0)
    for i, (colour, shape) in enumerate(
        product(("red", "blue", "green", "pink"), ("cube", "ball", "cone", "ring"))
    ):
        place = folder / "pictures" / f"{colour}_{shape}"
        place.mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[: 1 + i, :, i % 3] = 255
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def quick_settings(folder: Path, clients: int) -> dict[str, Any]:
    """Settings with which `quick` runs a method on CLIP."""
    return {
        "name": "quick",
        "rounds": 2,
        "data": {
            "source": "classes",
            "dataset": "things",
            "path": str(folder / "pictures"),
            "clients": {"image": clients},
            "partition": {"kind": "few-shot", "shots": 3},
        },
        "model": {"clip": str(folder / "clip")},
        "training": {"batch_size": 4, "optimizer": "sgd", "lr": 0.02, "clip": None},
        "evaluation": {"every": 2, "generate": False, "controls": False, "samples": 2},
    }
