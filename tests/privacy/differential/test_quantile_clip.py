"""Adaptive clipping: the paper's update, the split of the noise, and the count in a plain and in a secure sum."""

import math

import dp_accounting
import pytest
import torch
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.payload import Payload, Reply
from fedloom.privacy.differential.mechanism import Mechanism
from fedloom.privacy.differential.private_mean import private_mean
from fedloom.privacy.differential.quantile import count_deviation, next_clip, vector_multiplier
from fedloom.privacy.differential.settings import DP, QuantileClip
from fedloom.privacy.noise_refusals import largest_clip
from fedloom.privacy.secure.client import Session, Terms
from fedloom.privacy.secure.protocol import ROOM, ProtocolError
from fedloom.privacy.settings import Privacy, Secure


@given(z=st.floats(0.3, 20), noise=st.floats(0.51, 30))
def test_the_split_of_the_noise_is_theorem_1(z, noise) -> None:
    """z_delta^-2 + (2 sigma_b)^-2 = z^-2: changes and count together cost what z says."""
    dp = DP(clip=QuantileClip(noise=noise), noise_multiplier=z)
    assert vector_multiplier(dp) ** -2 + (2 * count_deviation(dp)) ** -2 == pytest.approx(z**-2, rel=1e-9)
    assert vector_multiplier(dp) > z
    assert vector_multiplier(DP(noise_multiplier=z)) == z
    assert count_deviation(DP(noise_multiplier=z)) == 0.0


def test_dp_accounting_gives_both_sums_together_the_epsilon_of_z() -> None:
    dp = DP(clip=QuantileClip(noise=0.8), noise_multiplier=1.1)
    both = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.GaussianDpEvent(vector_multiplier(dp)),
            dp_accounting.GaussianDpEvent(2 * count_deviation(dp)),  # a count that one client moves by 1/2
        ]
    )
    one = dp_accounting.GaussianDpEvent(1.1)
    spent = [RdpAccountant().compose(event, 7).get_epsilon(1e-5) for event in (both, one)]
    assert spent[0] == pytest.approx(spent[1], rel=1e-9)


def reply(client: str, norm: float) -> Reply:
    return Reply(client, Payload({"a/w": torch.tensor([norm, 0.0])}, {"examples": 3}))


def mechanism(**dp: object) -> Mechanism:
    return Mechanism(DP(seeded=True, **dp), 1.0, 1, 0)


def test_the_update_is_the_papers_with_the_count_of_those_below() -> None:
    """Norms 1, 2, 3, 9 and clip 2: two of four are below, C' = 2 exp(-0.3 (0.5 - 0.25))."""
    replies = [reply(str(n), n) for n in (1.0, 2.0, 3.0, 9.0)]
    quiet = {"a": torch.zeros(2, dtype=torch.float64)}
    mean, below = private_mean(replies, {}, {"a/w": (2,)}, 2.0, lambda g, s: quiet[g].clone(), {"a": 4.0})
    assert below == 0.0
    torch.testing.assert_close(mean.payload.tensors["a/w"], torch.tensor([7.0 / 4, 0.0]))
    settings = QuantileClip(quantile=0.25, start=2.0, rate=0.3)
    assert next_clip(2.0, 0.5 + below / 4, settings) == pytest.approx(2 * math.exp(-0.3 * 0.25), abs=1e-12)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_clip_finds_the_quantile(quantile) -> None:
    """A hundred norms, uniform in (0, 10): after 200 rounds with little noise the clip is 10 times the quantile."""
    norms = [0.05 + 0.1 * i for i in range(100)]
    one = mechanism(clip=QuantileClip(quantile=quantile, start=0.1), noise_multiplier=0.5)
    for number in range(1, 201):
        below = sum(0.5 if norm <= one.clip("train") else -0.5 for norm in norms)
        one.learn("train", 0.5 + (below + one.count_noise(number, "train")) / 100)
    assert one.clip("train") == pytest.approx(10 * quantile, abs=0.5)


def test_each_request_has_a_clip_of_its_own_and_a_checkpoint_holds_them() -> None:
    one = mechanism(clip=QuantileClip(start=0.4))
    one.learn("average", 1.0)
    assert one.clip("average") == pytest.approx(0.4 * math.exp(-0.1))
    assert one.clip("project") == 0.4
    two = mechanism(clip=QuantileClip(start=0.4))
    two.restore(one.state([]), [])
    assert two.clips == one.clips
    with pytest.raises(ValueError, match="positive"):
        two.restore({"clips": {"average": -1.0}}, [])


def test_noise_follows_the_clip() -> None:
    one = mechanism(clip=QuantileClip(start=0.5, noise=1.0), noise_multiplier=3.0)
    deviation = 0.5 * 3.0 / math.sqrt(0.75)
    drawn = one.noise(1, "train", "a", {"a/w": 20_000})
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.03)
    counts = torch.tensor([one.count_noise(number, "train") for number in range(2000)])
    assert float(counts.std()) == pytest.approx(3.0, rel=0.08)


def terms(clip: object) -> Terms:
    return Terms(Privacy(secure=Secure(), dp=DP(clip=clip)), by_examples=False, stream=None)


def test_a_client_takes_the_servers_clip_only_where_its_own_experiment_says_so() -> None:
    layout = {"below-clip/share": [1]}
    assert terms(0.7).clip({"clip": 1e5, "layout": {}}) == 0.7
    assert terms(QuantileClip()).clip({"clip": 0.3, "layout": layout}) == 0.3
    for wrong in (None, "1", 0.0, -1.0, float("inf"), float("nan"), 1e9):
        with pytest.raises(ProtocolError, match="clip should be a number"):
            terms(QuantileClip()).clip({"clip": wrong, "layout": layout})
    with pytest.raises(ProtocolError, match="no count"):
        terms(QuantileClip()).clip({"clip": 0.3, "layout": {}})


@pytest.mark.parametrize(("norm", "below"), [(0.2, 0.5), (0.9, -0.5)])
def test_in_a_secure_sum_a_client_adds_its_own_indicator(norm, below) -> None:
    session = Session(
        None,
        "train",
        reply("a", norm).payload,
        {},
        {"a/w": [2], "below-clip/share": [1]},
        terms(QuantileClip()),
        0.3,
        None,
    )
    assert float(session.changes["below-clip"]) == below
    assert float(session.changes["a"].norm()) == pytest.approx(min(norm, 0.3))


@pytest.mark.parametrize("name", ["below-clip/share", "below-clip/other"])
def test_a_client_with_a_fixed_clip_tells_nobody_whether_its_change_was_longer(name) -> None:
    """Its indicator would have no noise: count_deviation is 0 where the clip is a number."""
    with pytest.raises(ProtocolError, match="a clip that is fixed"):
        terms(0.7).clip({"layout": {"a/w": [2], name: [1]}})


def test_a_count_that_is_all_noise_leaves_a_clip_that_can_be_used() -> None:
    """A tenth of a client is expected and the noise is 500: the count says anything."""
    settings = QuantileClip(start=0.1, rate=2.0)
    assert [next_clip(0.1, below, settings) for below in (5e3, -5e3)] == [1e-9, 1e6]
    one = mechanism(clip=settings)
    one.learn("train", 5e3)
    mechanism(clip=settings).restore(one.state(["a"]), ["a"])


@pytest.mark.parametrize("start", [1.0, 4.0])
def test_a_clip_does_not_outgrow_the_words_of_a_secure_sum(start) -> None:
    """Clients refuse a sum whose words would cut their noise: every later round would be lost."""
    one, secure = mechanism(clip=QuantileClip(start=start), noise_multiplier=1.0), Secure(clip=8.0, least=3)
    most = largest_clip(one.dp, secure)
    assert ROOM * vector_multiplier(one.dp) * most / math.sqrt(3) < 8.0
    for _ in range(40):
        one.learn("train", -0.5, most)
    assert one.clip("train") == max(start, most)
    one.learn("train", 1.0, most)
    assert one.clip("train") == pytest.approx(max(start, most) * math.exp(-0.1))
