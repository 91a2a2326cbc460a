"""Client functions and weights of the LoRA family by their equations, without a model (specification fedlora 3.5 to 3.12, 5)."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.payload import Payload, Reply
from fedloom.methods import METHODS, State
from fedloom.methods.base.combine import combine_pairs
from fedloom.models.lora.ranks import Shape, ratios, to_client
from tests.methods.silos import Cohort, Silo, rounds

pytestmark = pytest.mark.identities
R, D_OUT, D_IN = 4, 6, 9
A, B = "llm/q.lora_A", "llm/q.lora_B"
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


def pair(
    seed: int, r: int = R, dtype: torch.dtype = torch.float64, place: str = "llm/q"
) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*s, generator=g, dtype=torch.float64).to(dtype) for s in ((r, D_IN), (D_OUT, r))]
    return dict(zip((f"{place}.lora_A", f"{place}.lora_B"), draw, strict=True))


def product(tensors, place: str = "llm/q") -> torch.Tensor:
    return tensors[f"{place}.lora_B"].double() @ tensors[f"{place}.lora_A"].double()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), clients=st.integers(1, 4), single=st.booleans())
def test_hetlora_weighs_clients_by_the_norm_of_their_dense_update_over_all_layers(
    seed, clients, single
) -> None:
    dtype, tolerance = (torch.float32, 1e-5) if single else (torch.float64, 1e-10)
    replies, norms = [], []
    for k in range(clients):
        s, r = (1.0, 0.5, 2.0, 3.0)[k], (4, 2, 3, 1)[k]
        layers = [
            pair(seed + 7 * k + i, r, dtype, place) for i, place in enumerate(("llm/q", "encoder.image/v"))
        ]
        replies.append(
            Reply(
                f"c{k}",
                Payload(layers[0] | layers[1]),
                scales={"llm": 2.0, "encoder.image": 0.25},
                ratios={"llm": s / 2},
            )
        )
        dense = (s * product(layers[0]), 0.25 * product(layers[1], "encoder.image/v"))
        norms.append(float(torch.cat([m.flatten() for m in dense]).norm()))
    weights = METHODS["hetlora"]().client_weights(replies)
    assert weights == pytest.approx([n / sum(norms) for n in norms], rel=tolerance)


def test_hetlora_adds_the_product_of_the_tails_norms_to_the_loss_and_pads() -> None:
    """gamma ||A[tail]|| ||B[:, tail]|| per layer, the tail from kept * r_k on; SGD by hand on that loss alone."""
    start = pair(0)
    silos = [Silo(c, {}, lr=0.05, steps=3) for c in "ab"]
    method = METHODS["hetlora"](gamma=0.4, kept=0.5, prune=False)
    after = rounds(method, silos, start, 1)[-1].shared
    a, b = start[A].clone(), start[B].clone()
    for _ in range(3):
        x, y = a[2:], b[:, 2:]
        n_x, n_y = x.norm(), y.norm()
        step_a, step_b = 0.4 * n_y * x / n_x, 0.4 * n_x * y / n_y
        a[2:] -= 0.05 * step_a
        b[:, 2:] -= 0.05 * step_b
    torch.testing.assert_close(after[A], a, **TOLERANCE)
    torch.testing.assert_close(after[B], b, **TOLERANCE)
    # padded: rows that only the first client holds count as zeros of the second
    small = {n: t[:2] if n == A else t[:, :2] for n, t in pair(1).items()}
    replies = [Reply("a", Payload(start)), Reply("b", Payload(small))]
    p = method.client_weights(replies)
    state = method.round(State(start), Cohort(method, [], given=replies))
    torch.testing.assert_close(state.shared[A][2:], p[0] * start[A][2:], **TOLERANCE)
    torch.testing.assert_close(state.shared[B][:, 2:], p[0] * start[B][:, 2:], **TOLERANCE)


def test_feddpa_trains_the_local_adapter_from_round_2_on_and_first_and_the_global_one_alone() -> None:
    local = {"llm/q.local_A": pair(5)[A], "llm/q.local_B": pair(5)[B]}
    silo = Silo("a", {}, personal=dict(local), examples=[0, 1, 2])
    method = METHODS["feddpa-lora"](mix=0.3, prompts=2)
    sent = pair(0)
    for number, wanted in ((1, [("lora", 0.0)]), (2, [("local", 0.3), ("lora", 0.0)])):
        silo.calls.clear()
        silo.round = number
        answer = method.client("train", Payload(sent), silo)
        trains = [
            ("local" if c["only"].role("llm/q.local_A") == "shared" else "lora", c["local"])
            for c in silo.calls
        ]
        assert trains == wanted
        for call in silo.calls:
            roles = {n: call["only"].role(n) for n in (A, "llm/q.local_A")}
            assert sorted(roles.values()) == ["frozen", "shared"]  # never both
        assert set(answer.tensors) == {A, B}
        assert torch.equal(silo.calls[-1]["start"][A], sent[A])
    assert silo.personal["anchors/prompts"].shape == (2, 2)
    assert silo.loaded[-1][1] == {"local": 0.3}


def test_fedrot_rotates_towards_a_in_odd_rounds_and_b_in_even_ones_and_not_in_the_first() -> None:
    sent = pair(0)
    turned = torch.linalg.qr(
        torch.randn(R, R, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).Q
    turned[:, 0] *= torch.linalg.det(turned).sign()
    apart = {A: turned.T @ sent[A], B: sent[B] @ turned}  # the same update in other factors
    method = METHODS["fedrot-lora"](strength=1.0)
    for number in (1, 2, 3):
        other = apart | ({B: apart[B] + 1} if number == 3 else {A: apart[A] + 1} if number == 2 else {})
        trainer = SimpleNamespace(
            round=number, personal={}, keep=lambda t: None, train=lambda s, o=other: (dict(o), {})
        )
        answer = method.client("train", Payload(sent), trainer).tensors
        torch.testing.assert_close(product(answer), product(other), **TOLERANCE)
        near = {A: torch.allclose(answer[A], sent[A]), B: torch.allclose(answer[B], sent[B])}
        assert near == {A: number == 3, B: number == 2}
        assert torch.equal(answer[A], other[A]) == (number == 1)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-3.0, 3.0), strength=st.floats(0.0, 1.0))
def test_a_softened_rotation_in_the_plane_is_the_one_nearest_the_mixture(angle, strength) -> None:
    from fedloom.aggregation.rotation import towards

    c, s = torch.tensor(angle, dtype=torch.float64).cos(), torch.tensor(angle, dtype=torch.float64).sin()
    turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    wanted = torch.atan2(strength * s, 1 - strength + strength * c)  # of (1 - l) I + l R, scaled
    found = towards(turn, strength)
    assert float(torch.atan2(found[1, 0], found[0, 0])) == pytest.approx(float(wanted), abs=1e-9)


def test_rolora_moves_one_factor_a_round_and_b_first() -> None:
    start = pair(0)
    targets = [{A: torch.zeros(R, D_IN).double() + k, B: torch.zeros(D_OUT, R).double() - k} for k in (1, 3)]
    silos = [Silo(c, t) for c, t in zip("ab", targets, strict=True)]
    states = rounds(METHODS["rolora"](), silos, start, 4)
    for number, (before, after) in enumerate(pairwise(states), 1):
        moved = {n for n in (A, B) if not torch.equal(before.shared[n], after.shared[n])}
        assert moved == ({B} if number % 2 else {A})


@pytest.mark.parametrize("method", ["fedavg-lora", "feda2-lora", "flexlora", "hetlora"])
@pytest.mark.parametrize("split", [(4, 4, 4), (4, 2, 3)])
def test_24_scales_are_folded_in_on_the_way_up_and_taken_out_on_the_way_down(method, split) -> None:
    """What counts is s_k B_k A_k / s: clients of other scales with the same effective pairs give the same server pair."""
    scales = (1.0, 0.5, 2.5)
    server, effective = pair(0), [pair(k + 1, r) for k, r in enumerate(split)]
    effective[1:] = [{n: t + 0.1 for n, t in e.items()} for e in effective[1:]]

    def aggregated(replies: list[Reply]) -> dict[str, torch.Tensor]:
        chosen = METHODS[method]()
        return dict(chosen.round(State(server), Cohort(chosen, [], given=replies)).shared)

    plain = [Reply(f"c{k}", Payload(e)) for k, e in enumerate(effective)]
    scaled = [
        Reply(f"c{k}", Payload({A: e[A], B: e[B] / s}), ratios={"llm": s})
        for k, (e, s) in enumerate(zip(effective, scales, strict=True))
    ]
    want, got = aggregated(plain), aggregated(scaled)
    torch.testing.assert_close(product(got), product(want), rtol=1e-9, atol=1e-10)
    for r, s in zip(split, scales, strict=True):
        shapes = {"llm": Shape(r, s)}
        down = to_client(server, shapes)
        assert (down[A].shape, down[B].shape) == ((r, D_IN), (D_OUT, r))
        torch.testing.assert_close(s * product(down), server[B][:, :r] @ server[A][:r], **TOLERANCE)
        assert ratios(shapes) == {"llm": s}


def test_24_the_mean_of_pairs_with_scales_is_that_of_the_dense_updates() -> None:
    """fedavg's rule sees s_k B_k: with one common A its product is the mean of the merged deltas."""
    from fedloom.aggregation import lora

    common, scales = pair(0)[A], (1.0, 0.5, 2.5)
    replies = [
        Reply(f"c{k}", Payload({A: common, B: pair(k + 1)[B]}), ratios={"llm": s})
        for k, s in enumerate(scales)
    ]
    p = [0.2, 0.3, 0.5]
    out = combine_pairs(replies, p, lora.fedavg, like=pair(0))
    want = sum(w * s * product(r.payload.tensors) for w, s, r in zip(p, scales, replies, strict=True))
    torch.testing.assert_close(product(out), want, **TOLERANCE)


def test_flora_restarts_from_another_a_in_every_round_and_the_same_at_every_client() -> None:
    asked = []
    trainer = SimpleNamespace(round=1, fresh=lambda *stream: asked.append(stream) or {})
    for number in (1, 2):
        trainer.round = number
        METHODS["flora"]().fresh(trainer)
    assert asked[0] != asked[1]
