"""Combining layers of one shape at once, in groups of bounded size."""

from functools import partial

import pytest
import torch

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Reply
from fedloom.methods.base import combine

SHAPES = {"encoder/a.": (9, 5), "llm/q.": (7, 6), "llm/up.": (7, 11), "llm/v.": (7, 6)}  # (d_in, d_out)


def replies(ranks=(3, 3, 3)) -> list[Reply]:
    g = torch.Generator().manual_seed(0)
    sent = []
    for k, rank in enumerate(ranks):
        tensors = {"projector/weight": torch.randn(4, 3, generator=g)}
        for place, (d_in, d_out) in SHAPES.items():
            if place.startswith("encoder") and k == 0:  # lacks the modality
                continue
            tensors[place + "lora_A"] = torch.randn(rank, d_in, generator=g)
            tensors[place + "lora_B"] = torch.randn(d_out, rank, generator=g)
        sent.append(Reply(f"client-{k}", Payload(tensors)))
    return sent


def like(rank: int = 3) -> dict[str, torch.Tensor]:
    A = {p + "lora_A": torch.zeros(rank, d) for p, (d, _) in SHAPES.items()}
    return A | {p + "lora_B": torch.zeros(d, rank) for p, (_, d) in SHAPES.items()}


@pytest.mark.parametrize("ranks", [(3, 3, 3), (1, 3, 2)])
@pytest.mark.parametrize("at_once", [1, 700, 1 << 26])
def test_layers_at_once_are_pairs_one_by_one_whatever_the_size_of_a_group(
    monkeypatch, ranks, at_once
) -> None:
    sizes: list[int] = []

    def rule(layers):
        sizes.append(sum(s.A.nbytes + s.B.nbytes for s in layers))
        assert len({(s.A.shape, s.B.shape) for s in layers}) == 1
        return lora.feda2_layers(layers, mode="strict")

    monkeypatch.setattr(combine, "AT_ONCE", at_once)
    sent, weights = replies(ranks), [0.5, 0.2, 0.3]
    together = combine.combine_layers(sent, weights, rule, like())
    apart = combine.combine_pairs(sent, weights, partial(lora.feda2, mode="strict"), like())
    assert together.keys() == apart.keys()
    for name, tensor in apart.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-5, atol=1e-6)
    largest = max(s for s in (4 * 3 * 3 * (i + o) for i, o in SHAPES.values()))
    assert max(sizes) <= max(at_once, largest)
    assert len(sizes) == (3 if at_once == 1 << 26 else 4 if at_once == 1 else len(sizes))


def test_a_pair_that_lacks_a_factor_at_one_client_is_left_out() -> None:
    sent = replies()
    del sent[1].payload.tensors["llm/q.lora_B"]  # type: ignore[attr-defined]
    places = [place for place, _ in combine.pairs(sent, [1 / 3] * 3)]
    assert places == ["encoder/a.", "llm/up.", "llm/v."]
    known = {"llm/q.lora_B": torch.ones(6, 3)}
    pair = dict(combine.pairs(sent, [1 / 3] * 3, known))["llm/q."]
    assert torch.equal(pair.B[1], known["llm/q.lora_B"])
    assert torch.equal(pair.B[2], sent[2].payload.tensors["llm/q.lora_B"])


def test_a_name_is_averaged_over_its_holders_and_left_out_where_they_do_not_count() -> None:
    one, two = {"a": torch.tensor([1.0]), "b": torch.tensor([1.0])}, {"a": torch.tensor([4.0])}
    sent = [Reply("x", Payload(one)), Reply("y", Payload(two))]
    assert combine.mean_of(sent, [1.0, 2.0]) == {"a": torch.tensor([3.0]), "b": torch.tensor([1.0])}
    assert set(combine.mean_of(sent, [0.0, 1.0])) == {"a"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_pair_whose_rank_is_both_its_widths_is_told_apart_by_name(dtype, tolerance) -> None:
    """r = d_in = d_out: no shape says which factor is A."""
    g, p, scales = torch.Generator().manual_seed(5), [0.5, 0.2, 0.3], [1.0, 2.0, 0.5]
    A, B = torch.randn(2, 3, 6, 6, generator=g, dtype=torch.float64)
    U = sum(w * s * b @ a for w, s, a, b in zip(p, scales, A, B, strict=True))
    square = {"llm/q.lora_A": torch.zeros(6, 6), "llm/q.lora_B": torch.zeros(6, 6)}
    sent = [
        Reply(f"c{k}", Payload(dict(zip(square, pair, strict=True))), ratios={"llm": s})
        for k, (*pair, s) in enumerate(zip(A.to(dtype), B.to(dtype), scales, strict=True))
    ]

    def close(got: torch.Tensor, want: torch.Tensor, scale: float = 1.0) -> bool:
        return float((got.double() - want).norm() / want.norm()) < scale * tolerance

    mean = combine.combine_pairs(sent, p, lora.fedavg, square)
    assert close(mean["llm/q.lora_A"], sum(w * a for w, a in zip(p, A, strict=True)))
    means = [w * s * b for w, s, b in zip(p, scales, B, strict=True)]
    assert close(mean["llm/q.lora_B"], sum(means))
    best = combine.combine_pairs(sent, p, lora.flexlora, square)
    solved = combine.combine_layers(sent, p, partial(lora.feda2_layers, ridge=0.0), square)
    for out, condition in ((best, 1.0), (solved, float(torch.linalg.cond(mean["llm/q.lora_A"].double())))):
        assert close(out["llm/q.lora_B"].double() @ out["llm/q.lora_A"].double(), U, condition)
    turned = combine.sort_directions(mean)
    product = mean["llm/q.lora_B"].double() @ mean["llm/q.lora_A"].double()
    assert close(turned["llm/q.lora_B"].double() @ turned["llm/q.lora_A"].double(), product)
