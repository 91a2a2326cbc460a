"""Clipping and noise on plain replies: hand-worked sums, moments of the noise, and silence that tells nothing."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from fedloom.core.payload import Payload, Reply
from fedloom.privacy.clipping import change, clipped
from fedloom.privacy.differential.mechanism import Mechanism
from fedloom.privacy.differential.noise import from_key, gaussian
from fedloom.privacy.differential.private_mean import private_mean
from fedloom.privacy.settings import DP

QUIET = DP(clip=1.0, noise_multiplier=1e-12, seeded=True)


def noisy(dp: DP):
    """The noise of round 1 under these settings."""
    return partial(Mechanism(dp, 1.0, 1, 0).noise, 1, "train")


def reply(client: str, **tensors: list[float]) -> Reply:
    return Reply(client, Payload({f"{n}/w": torch.tensor(t) for n, t in tensors.items()}, {"examples": 3}))


def test_all_of_a_clients_groups_are_one_vector_which_is_clipped_as_a_whole() -> None:
    """Changes (3, 0 | 4) of norm 5 shrink to (0.6, 0 | 0.8); (0, 0.5) of norm 0.5 stays; two expected in a, four in b."""
    reference = {"a/w": torch.tensor([1.0, 1.0]), "b/w": torch.tensor([2.0])}
    layout = {"a/w": (2,), "b/w": (1,)}
    replies = [reply("one", a=[4.0, 1.0], b=[6.0]), reply("two", a=[1.0, 1.5])]
    mean, _ = private_mean(replies, reference, layout, 1.0, noisy(QUIET), {"a": 2.0, "b": 4.0})
    torch.testing.assert_close(mean.payload.tensors["a/w"], torch.tensor([1.3, 1.25]))
    torch.testing.assert_close(mean.payload.tensors["b/w"], torch.tensor([2.2]))
    assert mean.counts == {"a": 2, "b": 4}
    assert set(mean.payload.numbers) == {"examples"}


def test_one_client_more_moves_the_sum_by_at_most_the_clip() -> None:
    g = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1.0, 1e6):
        tensors = {"a/w": scale * torch.randn(30, generator=g), "b/w": scale * torch.randn(4, 5, generator=g)}
        changes = clipped(change(tensors, {}, {n: tuple(t.shape) for n, t in tensors.items()}), 0.7)
        norm = torch.cat(list(changes.values())).norm()
        assert float(norm) <= 0.7 * (1 + 1e-12)
        if scale == 1e-3:
            torch.testing.assert_close(changes["a"], tensors["a/w"].double(), rtol=1e-12, atol=0)


def test_noise_has_its_deviation_also_where_nobody_answered() -> None:
    layout = {"a/w": (20_000,)}
    reference = {"a/w": torch.full((20_000,), 5.0)}
    dp = DP(clip=0.5, noise_multiplier=3.0, seeded=True)
    mean, below = private_mean([], reference, layout, 0.5, noisy(dp), {"a": 2.5})
    noise = (mean.payload.tensors["a/w"] - 5.0) * 2.5
    assert float(noise.std()) == pytest.approx(1.5, rel=0.03)
    assert mean.clients == ()
    assert below == 0


def test_secret_noise_is_normal_and_never_the_same() -> None:
    one, two = gaussian(20_000, 2.0), gaussian(20_000, 2.0)
    assert stats.kstest(one.numpy() / 2, "norm").pvalue > 1e-6
    assert not torch.equal(one, two)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert (
        torch.equal(from_key(bytes(32), 9)[:8], from_key(bytes(32), 8)) is False
    )  # pairs are made of halves
    assert torch.equal(from_key(bytes(32), 7), from_key(bytes(32), 7))


def test_seeded_noise_is_a_stream_of_its_own() -> None:
    same = [gaussian(5, 1.0, (0, ("dp", 1, "llm"))) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], gaussian(5, 1.0, (0, ("dp", 2, "llm"))))


def test_a_change_that_is_not_finite_or_not_whole_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        clipped({"a": torch.tensor([float("inf")])}, 1.0)
    with pytest.raises(ValueError, match="group a is not whole"):
        change({"a/w": torch.zeros(2)}, {}, {"a/w": (2,), "a/v": (1,)})
    with pytest.raises(ValueError, match="group a is not whole"):
        change({"a/w": torch.zeros(3)}, {}, {"a/w": (2,)})
