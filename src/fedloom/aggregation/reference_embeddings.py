"""Reference embeddings without a pre-trained model: one vector for each item and modality, in one space (FedMMKT, M3).

`ridge`: a caption's reference is a fixed random projection of its bag of words; a picture's is a ridge regression from its
pixels to its caption's reference. The server fits both once, on the first synthetic set. A map is one matrix, its last row the
constant. `other_mean` makes a modality's references from its clients' vectors.
"""

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fedloom.aggregation.fusion_attention import unit
from fedloom.aggregation.stack import wide

BUCKETS = 1024
"""Hash buckets of words, so that a word of a later round has a row, too."""
SIDE = 16
"""Pictures are averaged down to at most 16 x 16 before the regression."""


def ridge_reference_embeddings(
    pictures: Tensor, captions: Sequence[str], width: int, seed: int, ridge: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The maps of pictures (p + 1, d) and of words (1025, d), float32, from N pictures (N, 3, H, W) and their captions.

    `seed` alone determines the random projection; the mean of these captions is subtracted, because words that all
    share tell no item apart. `ridge` is relative to the mean energy of a pixel. Raises ValueError if the numbers differ.
    """
    if len(pictures) != len(captions) or not len(captions):
        raise ValueError(f"there are {len(pictures)} pictures and {len(captions)} captions; each needs one.")
    projection = torch.randn(
        BUCKETS, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    bags = bags_of_words(captions)
    # If all captions are equal, nothing is left without their mean: it stays, and all references are equal.
    alike = bool((bags == bags[:1]).all())
    shared = (
        torch.zeros(1, width, dtype=torch.float64) if alike else (bags @ projection).mean(0, keepdim=True)
    )
    words = torch.cat([projection, -shared])
    pixels = fit_ridge(picture_features(pictures), unit(through(bags, words)), ridge)
    return pixels.float(), words.float().to(pictures.device)


def picture_reference_embeddings(pictures: Tensor, pixels: Tensor) -> Tensor:
    """gᴵ (N, d), float32 and unit, of pictures (N, 3, H, W) through the map of `ridge_reference_embeddings`."""
    return unit(through(picture_features(pictures), pixels)).float()


def word_reference_embeddings(captions: Sequence[str], words: Tensor) -> Tensor:
    """gᵀ (N, d), float32 and unit, of captions through the map of `ridge_reference_embeddings`."""
    return unit(through(bags_of_words(captions).to(words.device), words)).float()


def other_mean(vectors: Tensor, weights: Tensor | None = None) -> Tensor:
    """A modality's references (N, d), unit: the mean of its clients' vectors (K, N, d) with `weights` (K,), equal if None.

    The other modalities are scored against it. Raises ValueError on weights that do not fit.
    """
    p = torch.ones(len(vectors)) if weights is None else weights
    if p.shape != (len(vectors),) or not len(vectors) or not bool((p >= 0).all()) or float(p.sum()) <= 0:
        raise ValueError(f"{len(vectors)} clients need as many weights, none negative and not all 0.")
    Z = wide(vectors.detach())
    return unit(torch.einsum("k,knd->nd", p.to(Z) / p.sum().to(Z), Z)).to(vectors.dtype)


def fit_ridge(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """(p + 1, d), float64: W and the constant of the ridge regression from features (N, p) to targets (N, d), both centred."""
    X = wide(features.detach())
    Y = targets.detach().to(X)
    x, y = X.mean(0), Y.mean(0)
    G = (X - x).T @ (X - x)
    lam = ridge * float(G.diagonal().mean()) + 1e-12
    W = torch.linalg.solve(G + lam * torch.eye(len(G)).to(G), (X - x).T @ (Y - y))
    return torch.cat([W, (y - x @ W)[None]])


def through(features: Tensor, weights: Tensor) -> Tensor:
    """(N, d), float64: features (N, p) through the map `weights` (p + 1, d)."""
    W = wide(weights)
    return wide(features) @ W[:-1] + W[-1]


def picture_features(pictures: Tensor) -> Tensor:
    """(N, p), float64: the pixels, averaged down to at most 16 x 16; uint8 is scaled to [0, 1], floats are not."""
    x = wide(pictures) / (255.0 if pictures.dtype == torch.uint8 else 1.0)
    if x.shape[-1] > SIDE or x.shape[-2] > SIDE:
        x = adaptive_avg_pool2d(x, SIDE)
    return x.flatten(1)


def bags_of_words(captions: Sequence[str]) -> Tensor:
    """(N, 1024), float64: counts of each caption's words by bucket; case and punctuation do not matter."""
    bags = torch.zeros(len(captions), BUCKETS, dtype=torch.float64)
    for row, caption in enumerate(captions):
        for word in re.findall(r"\w+", caption.lower()):
            bags[row, zlib.crc32(word.encode()) % BUCKETS] += 1
    return bags
