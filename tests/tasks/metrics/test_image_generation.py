import math

import pytest
import torch
from torch import Tensor, nn

from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.tasks.metrics.image_generation import (
    agreement,
    clip_score,
    diversity,
    diversity_by_class,
    frechet_distance,
    kernel_distance,
)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(x: Tensor) -> Tensor:
    """The same items with mean 0 and the identity as covariance."""
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def test_frechet_distance_has_the_closed_form_of_gaussians() -> None:
    x = whitened(randn(0, 50, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-10)
    shift = torch.tensor([3.0, 0.0, -4.0]).double()
    assert frechet_distance(x, x + shift) == pytest.approx(25, abs=1e-10)
    # Diagonal covariances: sum of (s_a - s_b)².
    scale = torch.tensor([2.0, 0.5, 1.0]).double()
    assert frechet_distance(x, x * scale + shift) == pytest.approx(25 + 1 + 0.25, abs=1e-10)
    turn, _ = torch.linalg.qr(randn(1, 3, 3))
    a, b = randn(2, 40, 3), 1.5 * randn(3, 30, 3) + 1
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), abs=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), abs=1e-9)
    few = randn(4, 5, 12)  # fewer items than features: singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_by_hand() -> None:
    a, b = torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    within_a = 2 * (27 + 1 + 1) / 6  # k(1, 2) = 27; with 0 it is 1
    within_b = 1.0
    across = (1 + 8 + 1 + 27 + 1 + 1) / 6
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across, abs=1e-12)
    x = randn(0, 400, 6)
    apart = kernel_distance(x[:200], x[200:] + 1)
    assert abs(kernel_distance(x[:200], x[200:])) < 0.1 * apart


class RowMap(nn.Module):
    """What torchmetrics asks for: a net from pictures to features."""

    num_features = 3 * 4 * 5

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_both_distances_are_those_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 9, (80, 3, 4, 5), generator=g, dtype=torch.uint8)
    fake = torch.randint(0, 7, (80, 3, 4, 5), generator=g, dtype=torch.uint8)
    fid = FrechetInceptionDistance(RowMap(), input_img_size=(3, 4, 5)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(RowMap(), subsets=1, subset_size=80)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    a, b = real.flatten(1), fake.flatten(1)
    assert frechet_distance(a, b) == pytest.approx(float(fid.compute()), rel=1e-3)
    assert kernel_distance(a, b) == pytest.approx(float(kid.compute()[0]), rel=1e-5)


def test_diversity_is_the_mean_distance_in_a_class() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [9.0, 9.0]])
    y = torch.tensor([0, 0, 0, 2, 2, 5])
    assert diversity_by_class(x, y) == pytest.approx({0: 10 / 3, 2: 0.0})
    assert diversity(x, y) == pytest.approx(5 / 3)
    assert math.isnan(diversity(x[5:], y[5:]))


def test_agreement_counts_first_choices() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.0], [2.0, 1.0, 1.5], [0.0, 0.0, 1.0]])
    assert agreement(logits, torch.tensor([1, 2, 2])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"\(3, 3\) and labels \(2,\)"):
        agreement(logits, torch.tensor([1, 2]))


def test_clip_score_knows_which_caption_belongs_to_which_picture() -> None:
    from fedloom.data.tabletop import PUBLIC_STYLES
    from fedloom.data.tabletop.objects import PUBLIC_COMBINATIONS, class_name, object_sample

    towers, pixels = load_clip_checkpoint("tiny-clip")
    combinations = PUBLIC_COMBINATIONS[::9]
    style = PUBLIC_STYLES[0]
    samples = [object_sample(0, "public", 5_000_000, c, style) for c in combinations]
    pictures = torch.stack([s.modalities["image"] for s in samples])
    texts = [f"a photo of a {class_name(c)}." for c in combinations]
    right = clip_score(towers, pixels, pictures, texts)
    wrong = clip_score(towers, pixels, pictures, texts[1:] + texts[:1])
    assert 0 <= wrong < right - 0.1 <= 0.9
    halves = [clip_score(towers, pixels, pictures[s], texts[s]) for s in (slice(0, 3), slice(3, None))]
    n = len(texts)
    assert right == pytest.approx((3 * halves[0] + (n - 3) * halves[1]) / n, abs=1e-5)
    assert math.isnan(clip_score(towers, pixels, pictures[:0], []))
    with pytest.raises(ValueError, match="pictures and 1 texts"):
        clip_score(towers, pixels, pictures, texts[:1])


def test_refusals() -> None:
    x = torch.zeros(4, 3)
    for a, b in ((x, x[:, :2]), (x[:1], x), (x, x[0])):
        for distance in (frechet_distance, kernel_distance):
            with pytest.raises(ValueError, match="two items or more"):
                distance(a, b)
