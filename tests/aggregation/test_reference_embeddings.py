import pytest
import torch

from fedloom.aggregation.reference_embeddings import (
    bags_of_words,
    fit_ridge,
    other_mean,
    picture_reference_embeddings,
    ridge_reference_embeddings,
    through,
    word_reference_embeddings,
)

CAPTIONS = [
    "a red thing with three corners",
    "a green thing with no corner",
    "a blue thing with four corners",
]


def pictures(repeat: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(3 * repeat, 3, 5, 7)
    for i in range(3 * repeat):
        x[i, i % 3] = 200.0
    return (x + 20 * torch.rand(x.shape, generator=g)).to(torch.uint8)


def test_a_picture_is_near_its_own_caption_and_both_maps_stay_the_same() -> None:
    x = pictures()
    pixels, words = ridge_reference_embeddings(x, CAPTIONS * 4, 32, seed=3)
    assert pixels.shape == (3 * 5 * 7 + 1, 32)
    assert words.shape == (1025, 32)
    gi, gt = picture_reference_embeddings(pictures(), pixels), word_reference_embeddings(CAPTIONS, words)
    for g in (gi, gt):
        assert torch.allclose(g.norm(dim=1), torch.ones(len(g)), atol=1e-5)
    assert (gi @ gt.T).argmax(1).tolist() == [i % 3 for i in range(12)]
    again = ridge_reference_embeddings(x, CAPTIONS * 4, 32, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(again, (pixels, words), strict=True))
    assert not torch.equal(ridge_reference_embeddings(x, CAPTIONS * 4, 32, seed=4)[1], words)


def test_words_that_all_captions_share_do_not_count() -> None:
    _, words = ridge_reference_embeddings(pictures(), CAPTIONS * 4, 64, seed=0)
    g = word_reference_embeddings(CAPTIONS, words)
    cosines = (g @ g.T)[~torch.eye(3, dtype=torch.bool)]
    assert float(cosines.max()) < 0.2  # "a thing with corners" alone would make them 0.6 and more
    assert torch.equal(word_reference_embeddings(["A RED thing, with three corners!"], words), g[:1])


def test_captions_that_are_all_alike_give_one_unit_vector() -> None:
    pixels, words = ridge_reference_embeddings(pictures(), CAPTIONS[:1] * 12, 16, seed=0)
    g = torch.cat(
        [word_reference_embeddings(CAPTIONS[:1] * 3, words), picture_reference_embeddings(pictures(), pixels)]
    )
    assert torch.allclose(g @ g.T, torch.ones(15, 15), atol=1e-5)


def test_bags_count_words() -> None:
    bags = bags_of_words(["red red square", ""])
    assert sorted(bags[0][bags[0] > 0].tolist()) == [1.0, 2.0]
    assert float(bags[1].sum()) == 0


def test_ridge_finds_an_affine_map_and_shrinks_it_to_the_mean() -> None:
    g = torch.Generator().manual_seed(0)
    X = torch.randn(40, 5, generator=g, dtype=torch.float64)
    W, b = torch.randn(5, 3, generator=g, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5]).double()
    weights = fit_ridge(X, X @ W + b, 1e-14)
    assert torch.allclose(weights, torch.cat([W, b[None]]), atol=1e-9)
    flat = through(X, fit_ridge(X, X @ W + b, 1e12))
    assert torch.allclose(flat, (X @ W + b).mean(0).expand(40, 3), atol=1e-9)


def test_other_mean_weighs_clients_by_their_data() -> None:
    Z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    g = other_mean(Z, torch.tensor([3, 4]))
    assert torch.allclose(g, torch.tensor([[0.6, 0.8], [0.0, 1.0]]), atol=1e-6)
    assert torch.allclose(other_mean(Z)[0], torch.full((2,), 0.5**0.5), atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="12 pictures and 3 captions"):
        ridge_reference_embeddings(pictures(), CAPTIONS, 8, 0)
    for weights in ([1.0], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="2 clients"):
            other_mean(torch.ones(2, 1, 3), torch.tensor(weights))
