import math

import pytest
import torch

from fedloom.aggregation.fusion import (
    alignment_error,
    collapse,
    effective_clients,
    pairwise_cosine,
    rank99,
)


def test_effective_clients_by_hand() -> None:
    a = torch.tensor([[0.25, 1.0, 0.5], [0.25, 0.0, 0.5], [0.25, 0.0, 0.0], [0.25, 0.0, 0.0]])
    assert effective_clients(a).tolist() == pytest.approx([4.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
def test_pairwise_cosine_is_the_mean_over_pairs(dtype, tol) -> None:
    r = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    pairs = [
        float(torch.nn.functional.cosine_similarity(r[i].double(), r[j].double(), dim=0))
        for i in range(9)
        for j in range(i)
    ]
    assert pairwise_cosine(r) == pytest.approx(sum(pairs) / 36, abs=tol)
    assert pairwise_cosine(r[:1].expand(4, 5)) == pytest.approx(1.0, abs=tol)
    assert math.isnan(pairwise_cosine(r[:1]))


def test_rank_counts_what_holds_99_percent() -> None:
    for values, want in (
        ([3.0, 0.3, 0.1, 0.0], 2),
        ([10.0, 1.0, 0.01, 0.0], 1),
        ([1.0] * 4, 4),
        ([0.0] * 4, 0),
    ):
        r = torch.zeros(7, 4, dtype=torch.float64)
        r[:4] = torch.diag(torch.tensor(values, dtype=torch.float64))
        assert rank99(r) == want
    assert rank99(torch.zeros(0, 4)) == 0


def test_alignment_error_by_hand() -> None:
    r = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    Z = {"image": torch.stack([r, -r]), "text": torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])}
    assert alignment_error(Z, r).tolist() == pytest.approx([(0 + 4 + 2) / 3, 4 / 3])
    assert alignment_error({}, r).tolist() == [0.0, 0.0]


def test_a_collapse_is_named() -> None:
    spread = torch.eye(4)
    fair = {"image": torch.full((3, 4), 1 / 3), "text": torch.ones(1, 4)}
    assert collapse(fair, spread) is None
    skew = {**fair, "image": torch.tensor([[0.9], [0.05], [0.05]]).expand(3, 4)}
    sentence = collapse(skew, spread)
    assert sentence is not None
    assert "image rests on 1.23 of 3 clients" in sentence
    assert "text" not in sentence
    sentence = collapse(fair, torch.ones(4, 4) + 0.01 * spread)
    assert sentence is not None
    assert "mean cosine 1.000" in sentence
    assert "rests" not in sentence
