import pytest
import torch

from fedloom.tasks.metrics.oracle import WIDTH, train_oracle


def bars(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes of noisy 11 x 14 pictures: a lying or standing bar, red or blue, anywhere."""
    g = torch.Generator().manual_seed(seed)
    x = 40 * torch.rand(n, 3, 11, 14, generator=g)
    y = torch.arange(n) % 4
    for i, label in enumerate(y.tolist()):
        at = int(torch.randint(2, 8, (1,), generator=g))
        colour = 0 if label < 2 else 2
        if label % 2:
            x[i, colour, at : at + 2, 3:11] = 220
        else:
            x[i, colour, 2:9, at : at + 2] = 220
    return x.to(torch.uint8), y


def test_it_learns_what_is_on_pictures_and_reads_each_by_itself() -> None:
    oracle = train_oracle(*bars(160, 0), 4, seed=1, steps=120)
    x, y = bars(80, 1)
    logits = oracle.logits(x)
    assert (logits.argmax(1) == y).double().mean() > 0.95
    assert torch.allclose(oracle.probabilities(x).sum(1), torch.ones(80))
    features = oracle.features(x)
    assert features.shape == (80, WIDTH)
    assert torch.allclose(oracle.head(features), logits)
    # A picture's features are its own, whatever else is in the batch.
    assert torch.allclose(oracle.features(x[3:5]), features[3:5], atol=1e-5)


def test_the_seed_decides_everything() -> None:
    x, _ = bars(8, 1)
    before = torch.random.get_rng_state()
    one, again, other = (train_oracle(*bars(16, 0), 4, seed=s, steps=3).logits(x) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_refusals() -> None:
    x, y = bars(8, 0)
    for pictures, labels, message in [
        (x[:, :2], y, r"pictures are \(8, 2, 11, 14\)"),
        (x, y[:3], r"labels \(3,\)"),
        (x, y + 1, "outside 0 to 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_oracle(pictures, labels, 4, seed=0)
