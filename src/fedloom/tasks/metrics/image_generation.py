"""Image generation metrics: distances between sets of features, diversity, agreement with labels and with texts.

Evaluation only. Features come from one fixed network for all compared sets (`metrics.oracle`; papers use Inception, whose weights
need a download): figures by different networks are not comparable. Computed in float64. The tests compare the two distances with
torchmetrics, which needs a network and pictures instead of features.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers
    from fedloom.models.image_processing import Pixels

_BATCH = 128


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Fréchet distance of Gaussians fitted to features (N, p) and (M, p): FID (Heusel et al., 2017).

    |mu_a - mu_b|² + tr(C_a + C_b - 2 (C_a C_b)^1/2), >= 0 and 0 for equal sets. Biased upwards for few items: compare only
    figures of equal numbers. Raises ValueError for fewer than 2 items or different widths.
    """
    a, b = _pair(features_a, features_b)
    (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # The eigenvalues of C_a C_b are those of the symmetric C_a^1/2 C_b C_a^1/2.
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(distance), 0.0)


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, kernel (<x, y> / p + 1)³: KID (Bińkowski et al., 2018).

    Over the whole sets of features (N, p) and (M, p). Its expectation for equal distributions is 0, so it may be negative,
    and it is negative between a set and itself. Raises ValueError for fewer than 2 items or different widths.
    """
    a, b = _pair(features_a, features_b)
    return float(_within(a) + _within(b) - 2 * _kernel(a, b).mean())


def diversity_by_class(features: Tensor, labels: Tensor) -> dict[int, float]:
    """Mean Euclidean distance between pairs of items of each class, of features (N, p) and labels int64 (N,).

    Classes with fewer than two items are omitted.
    """
    by_class = {}
    for label in torch.unique(labels).tolist():
        own = features[labels == label].detach().double().flatten(1)
        if len(own) > 1:
            by_class[int(label)] = float(torch.nn.functional.pdist(own).mean())
    return by_class


def diversity(features: Tensor, labels: Tensor) -> float:
    """Mean of `diversity_by_class` over the classes; falls towards 0 as a generator collapses. NaN if no class has two items."""
    by_class = diversity_by_class(features, labels)
    return sum(by_class.values()) / len(by_class) if by_class else float("nan")


def agreement(logits: Tensor, labels: Tensor) -> float:
    """Share of items whose label (N,) is the oracle's first choice of logits (N, C). NaN without items."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; (N, C) and (N,) fit."
        )
    return float((logits.argmax(1) == labels).double().mean())


@torch.no_grad()
def clip_score(towers: "Towers", pixels: "Pixels", pictures: Tensor, texts: Sequence[str]) -> float:
    """Mean over items of max(cos(picture, text), 0) by a CLIP, in [0, 1]; pictures uint8 (N, 3, H, W) and N texts.

    CLIPScore (Hessel et al., 2021) is this times 2.5, torchmetrics' times 100. `towers` and `pixels` come from
    `models.clip.checkpoint.load_clip_checkpoint`. NaN without items; raises ValueError on unequal numbers, and ExperimentError on
    a text that is too long.
    """
    if len(pictures) != len(texts):
        raise ValueError(f"there are {len(pictures)} pictures and {len(texts)} texts; each needs one.")
    total = 0.0
    for start in range(0, len(pictures), _BATCH):
        batch = pictures[start : start + _BATCH].cpu()
        sized = pixels.normal(torch.stack([pixels.sized(x) for x in batch]).to(towers.like.device))
        seen = towers.vision_out(towers.run("vision", towers.vision_in(sized)))
        tokens = towers.tokens(texts[start : start + _BATCH])
        read = towers.text_features(towers.embed(tokens.ids), tokens.end)
        total += float((seen.double() * read.double()).sum(1).clamp_min(0).sum())
    return total / len(pictures) if len(pictures) else float("nan")


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features are {tuple(a.shape)} and {tuple(b.shape)}; they must be (N, p) and (M, p), two items or more."
        )
    return a.detach().double(), b.detach().double()


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: Tensor) -> Tensor:
    """Mean of the kernel over pairs of different items."""
    k = _kernel(x, x)
    return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))
