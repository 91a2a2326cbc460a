"""A VisionTextDualEncoderModel of a picture encoder and a sentence encoder, whose projections are aligned on captioned pictures.

`vision` and `text` are folders or ids of a picture model with a pooled output and of a BERT; `pictures` holds a metadata.jsonl of
`file_name` and `text`. Both encoders stay frozen. The common space is that of the sentence encoder's own vectors, the mean over a
caption's tokens without the captions' common direction; each projection is a ridge regression from its encoder's pooled output
onto them. A fifth of the captions is held out: it sets the logit scale, and the ranks at which it finds its pictures' captions
are printed. Nothing is drawn. `side` is the pictures' size for a DINOv2, whose positions are resized once.
"""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, VisionTextDualEncoderModel

RIDGE = {"image": 300.0, "text": 10.0}
"""Chosen in five folds of the public captions."""
TANH = 0.05
"""The text pooler's inner scale, at which its tanh is nearly straight."""
TEMPLATE = "a photo of {}"
SCALES = [float(s) for s in range(2, 101)]


def captions(folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures and their captions."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [folder / row["file_name"] for row in rows], [row["text"] for row in rows]


def on_white(path: Path) -> Image.Image:
    """A picture without transparency."""
    picture = Image.open(path).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def resized(model: Any, side: int) -> None:
    """Give a DINOv2 positions for pictures of `side` pixels; another model keeps its size."""
    if model.config.model_type != "dinov2":
        return
    patches = (side // model.config.patch_size) ** 2
    blank = torch.zeros(1, 1 + patches, model.config.hidden_size)
    positions = model.embeddings.interpolate_pos_encoding(blank, side, side)
    model.embeddings.position_embeddings = torch.nn.Parameter(positions.detach().clone())
    model.config.image_size = side


def straightened(model: Any) -> None:
    """Let a BERT's pooler pass the first token's state: a sentence encoder is trained with the mean and never uses its pooler."""
    if model.config.model_type != "bert" or model.pooler is None:
        raise SystemExit(f"TEXT is a {model.config.model_type} model; a BERT with a pooler is right")
    width = model.config.hidden_size
    model.pooler.dense.weight.data = TANH * torch.eye(width)
    model.pooler.dense.bias.data = torch.zeros(width)


@torch.no_grad()
def picture_states(model: Any, processor: Any, paths: list[Path], batch: int = 16) -> Tensor:
    """Pooled outputs (N, d)."""
    states = []
    for start in range(0, len(paths), batch):
        shown = [on_white(p) for p in paths[start : start + batch]]
        pixels = processor(images=shown, return_tensors="pt")["pixel_values"]
        states.append(model(pixel_values=pixels).pooler_output.flatten(1))
    return torch.cat(states)


@torch.no_grad()
def text_states(model: Any, tokenizer: Any, texts: list[str], batch: int = 64) -> tuple[Tensor, Tensor]:
    """Pooled outputs and the sentence encoder's own vectors, the mean over tokens; (N, d) each."""
    pooled, means = [], []
    for start in range(0, len(texts), batch):
        read = tokenizer(texts[start : start + batch], padding=True, truncation=True, return_tensors="pt")
        out = model(**read)
        mask = read["attention_mask"][..., None]
        pooled.append(out.pooler_output)
        means.append((out.last_hidden_state * mask).sum(1) / mask.sum(1))
    return torch.cat(pooled), torch.cat(means)


def ridge(x: Tensor, y: Tensor, weight: float) -> Tensor:
    """W (d_out, d_in) of least |x W' - y|^2 + weight |W|^2, for x (N, d_in) and y (N, d_out)."""
    x, y = x.double(), y.double()
    gram = x.T @ x + weight * torch.eye(x.shape[1], dtype=x.dtype)
    solved: Tensor = torch.linalg.solve(gram, x.T @ y)
    return solved.T.float()


def without(direction: Tensor, vectors: Tensor) -> Tensor:
    """Unit vectors (N, d) without their part along `direction` (d,)."""
    unit = normalize(direction, dim=0)
    return normalize(vectors - (vectors @ unit)[:, None] * unit, dim=-1)


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """(N, M)."""
    return normalize(image, dim=-1) @ normalize(text, dim=-1).T


def ranks(similar: Tensor, tops: tuple[int, ...] = (1, 5, 10)) -> list[float]:
    """The share of pictures whose own caption is among the first `top`, for similarities (N, N)."""
    better = (similar > similar.diagonal()[:, None]).sum(1)
    return [float((better < top).float().mean()) for top in tops]


def best_scale(similar: Tensor) -> float:
    """The logit scale of the least symmetric contrastive loss."""
    own = torch.arange(len(similar))

    def loss(scale: float) -> float:
        return float(cross_entropy(scale * similar, own) + cross_entropy(scale * similar.T, own))

    return min(SCALES, key=loss)


def aligned(
    images: Tensor, pooled: Tensor, means: Tensor, worded: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The two projections (d_text, d_image) and (d_text, d_text); `worded` are pooled and means of captions in the template."""
    common = means.mean(0)
    image = ridge(images, without(common, means), RIDGE["image"])
    both = torch.cat([means, worded[1]])
    return image, ridge(torch.cat([pooled, worded[0]]) / TANH, without(common, both), RIDGE["text"])


def make(vision: str, text: str, pictures: Path, folder: Path, side: int = 112) -> str:
    """Align on four fifths of the captions, measure on the last, and write the pair."""
    picture_model, text_model = (AutoModel.from_pretrained(name).eval() for name in (vision, text))
    processor = AutoImageProcessor.from_pretrained(vision, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(text)
    resized(picture_model, side)
    straightened(text_model)
    if picture_model.config.model_type == "dinov2":
        processor.size = {"height": side, "width": side}
    paths, texts = captions(pictures)
    images = picture_states(picture_model, processor, paths)
    pooled, means = text_states(text_model, tokenizer, texts)
    worded = text_states(text_model, tokenizer, [TEMPLATE.format(t[:1].lower() + t[1:]) for t in texts])
    held = torch.arange(len(texts)) % 5 == 4
    kept = ~held
    image, words = aligned(images[kept], pooled[kept], means[kept], (worded[0][kept], worded[1][kept]))
    similar = cosines(images[held] @ image.T, pooled[held] @ words.T)
    scale = best_scale(similar)
    if not hasattr(picture_model.config, "hidden_size"):  # a CNN's config, which the dual encoder asks for it
        picture_model.config.hidden_size = images.shape[1]
    pair = VisionTextDualEncoderModel(vision_model=picture_model, text_model=text_model)
    pair.config.projection_dim = image.shape[0]
    for name, weight in (("visual_projection", image), ("text_projection", words)):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight.contiguous()
        setattr(pair, name, layer)
    pair.logit_scale.data = torch.tensor(scale).log()
    pair.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    shares = ", ".join(f"{share:.2f}" for share in ranks(similar))
    return f"{int(kept.sum())} captions aligned; rank 1, 5, 10 of {int(held.sum())} held out: {shares}; scale {scale:g}"
