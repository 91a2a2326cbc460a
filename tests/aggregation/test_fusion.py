import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedloom.aggregation.fusion import Fusion, attention, effective_clients, fuse, learn_attention, scores
from fedloom.aggregation.fusion_attention import attend, unit

N, D = 13, 24
KINDS = ("message_mean", "client_mean", "joint_multihead")


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def setup(seed: int = 0, counts: tuple[int, ...] = (3, 4), dtype: torch.dtype = torch.float64, n: int = N):
    names = ("image", "text", "sound")[: len(counts)]
    common = randn(seed, n, D)
    Z = {
        m: unit(common + 1.5 * randn(seed + 10 + i, k, n, D)).to(dtype)
        for i, (m, k) in enumerate(zip(names, counts, strict=True))
    }
    G = {m: unit(common + randn(seed + 20 + i, n, D)).to(dtype) for i, m in enumerate(names)}
    return Z, G


def by_hand(Z: dict[str, Tensor], G: dict[str, Tensor], how: Fusion) -> Tensor:
    """The specification's formulas, item by item and client by client, for image and text."""
    out = []
    for i in range(len(G["image"])):
        rows = {}
        for m, o in (("image", "text"), ("text", "image")):
            tilde = []
            for z in Z[m][:, i]:
                e = [math.exp(float(z @ k) / how.temperature) for k in Z[o][:, i]]
                message = sum(x / sum(e) * v for x, v in zip(e, Z[o][:, i], strict=True))
                t = z + how.share * message
                tilde.append(t / t.norm())
            rows[m] = tilde
        fused = []
        for m, o in (("image", "text"), ("text", "image")):
            s = []
            for z in rows[m]:
                e = [math.exp(float(z @ g) / how.tau) for g in G[o]]
                s.append(math.log(e[i] / sum(e)))
            a = [math.exp(x / how.tau_agg) for x in s]
            r = sum(x / sum(a) * z for x, z in zip(a, rows[m], strict=True))
            fused.append(r / r.norm())
        r = (fused[0] + fused[1]) / 2
        out.append(r / r.norm())
    return torch.stack(out)


@pytest.mark.identities
@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
def test_9_two_modalities_are_the_two_modality_formula(dtype, tol) -> None:
    how = Fusion(tau_agg=2.0, share=0.7)
    Z, G = setup(dtype=dtype)
    want = by_hand(*setup(), how)
    got = fuse(Z, G, how)
    assert got.vectors.dtype == dtype
    assert torch.allclose(got.vectors.double(), want, atol=tol, rtol=0)
    one_head = fuse(Z, G, replace(how, other="joint_multihead", heads=1))
    assert torch.allclose(one_head.vectors.double(), want, atol=tol, rtol=0)


@pytest.mark.identities
def test_9_client_mean_of_two_modalities_ignores_the_temperature() -> None:
    Z, G = setup()
    cold, hot = (fuse(Z, G, Fusion(other="client_mean", temperature=t)).vectors for t in (0.01, 10.0))
    assert torch.allclose(cold, hot, atol=1e-12)
    three, anchors = setup(counts=(3, 4, 2))
    cold, hot = (
        fuse(three, anchors, Fusion(other="client_mean", temperature=t)).vectors for t in (0.01, 10.0)
    )
    assert not torch.allclose(cold, hot, atol=1e-3)


@pytest.mark.identities
@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("counts", [(3, 4), (3, 4, 2)])
def test_7_order_of_clients_does_not_matter_and_r_is_unit(other, counts) -> None:
    Z, G = setup(counts=counts)
    how = Fusion(other=other)
    got = fuse(Z, G, how)
    turned = fuse({m: z.flip(0) for m, z in reversed(Z.items())}, G, how)
    assert torch.allclose(got.vectors, turned.vectors, atol=1e-10, rtol=0)
    for m, k in zip(G, counts, strict=True):
        assert got.weights[m].shape == (k, N)
        assert torch.allclose(got.weights[m], turned.weights[m].flip(0), atol=1e-10, rtol=0)
        assert torch.allclose(got.weights[m].sum(0), torch.ones(N).double(), atol=1e-10)
    assert torch.allclose(got.vectors.norm(dim=1), torch.ones(N).double(), atol=1e-10)


@pytest.mark.identities
def test_7_identical_clients_and_a_single_item_weigh_the_same() -> None:
    Z, G = setup()
    same = {m: z[:1].expand_as(z) for m, z in Z.items()}
    for m, a in fuse(same, G).weights.items():
        assert torch.allclose(a, torch.full_like(a, 1 / len(Z[m])), atol=1e-12)
    one = fuse({m: z[:, :1] for m, z in Z.items()}, {m: g[:1] for m, g in G.items()})
    for m, a in one.weights.items():
        assert torch.allclose(a, torch.full_like(a, 1 / len(Z[m])), atol=1e-12)


@pytest.mark.identities
@pytest.mark.parametrize("attention", [True, False])
def test_8_a_client_shuffled_over_items_weighs_less(attention) -> None:
    Z, G = setup(n=40)
    before = fuse(Z, G, Fusion(attention=attention)).weights["image"].mean(1)
    Z["image"][1] = Z["image"][1, torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    after = fuse(Z, G, Fusion(attention=attention)).weights["image"].mean(1)
    assert after[1] < 0.5 * before[1]


@pytest.mark.identities
def test_15_and_16_who_is_missing_gives_its_anchor() -> None:
    Z, G = setup()
    start = fuse({}, G)
    assert torch.allclose(start.vectors, unit((G["image"] + G["text"]) / 2), atol=1e-12)
    assert start.weights == {}
    half = fuse({"text": Z["text"], "image": Z["image"][:0]}, G)
    assert set(half.weights) == {"text"}
    text = unit(torch.einsum("kn,knd->nd", half.weights["text"], Z["text"]))  # nobody to attend to
    assert torch.allclose(half.vectors, unit((G["image"] + text) / 2), atol=1e-10)


def test_mean_and_no_attention_by_hand() -> None:
    Z, G = setup()
    plain = fuse(Z, G, Fusion(attention=False, aggregate="mean"))
    want = unit(sum(unit(z.mean(0)) for z in Z.values()) / 2)
    assert torch.allclose(plain.vectors, want, atol=1e-12)
    single = fuse({"image": Z["image"]}, {"image": G["image"]})  # nothing of another kind to compare with
    assert torch.allclose(single.vectors, unit(Z["image"].mean(0)), atol=1e-12)


def test_three_modalities_mean_the_messages_and_the_scores() -> None:
    Z, _ = setup(counts=(3, 4, 2))
    got = attend(Z, temperature=0.1, share=0.5, other="message_mean")["text"]
    messages = [
        torch.einsum("nkl,lnd->knd", attention(Z["text"], Z[o], 0.1), Z[o]) for o in ("image", "sound")
    ]
    assert torch.allclose(got, unit(Z["text"] + 0.5 * (messages[0] + messages[1]) / 2), atol=1e-12)


def test_heads_split_the_width() -> None:
    Z, _ = setup()
    got = attend(Z, temperature=0.3, share=1.0, other="joint_multihead", heads=3)["image"]
    parts = []
    for h in range(3):
        at = slice(8 * h, 8 * h + 8)
        q, k = Z["image"][..., at], Z["text"][..., at]
        parts.append(torch.einsum("nkl,lnd->knd", attention(3 * q, k, 0.3), k))
    assert torch.allclose(got, unit(Z["image"] + torch.cat(parts, 2)), atol=1e-12)


def test_a_type_draws_attention_to_its_modality_and_is_no_message() -> None:
    Z, _ = setup(counts=(1, 3, 2), n=1)
    how = {"temperature": 0.1, "share": 1.0, "other": "joint_multihead", "heads": 1}
    got = attend(Z, **how, learned={"type/sound": 50 * Z["image"][0, 0]})["image"]
    message = torch.einsum("nkl,lnd->knd", attention(Z["image"], Z["sound"], 0.1), Z["sound"])
    assert torch.allclose(got, unit(Z["image"] + message), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sqrt_d_flattens_attention_on_unit_vectors(dtype) -> None:
    cosines = torch.tensor([0.8, 0.3, 0.1, 0.0], dtype=dtype)
    q = torch.zeros(1, 1, 256, dtype=dtype)
    q[..., 0] = 1.0
    k = torch.zeros(4, 1, 256, dtype=dtype)
    k[:, 0, 0], k[:, 0, 1] = cosines, (1 - cosines**2).sqrt()
    sharp = attention(q, k, 0.1)[0, 0].tolist()
    assert sharp[:2] == pytest.approx([0.992, 0.0067], abs=1e-3)
    assert attention(q, k, 16.0)[0, 0].tolist() == pytest.approx([0.258, 0.250, 0.247, 0.245], abs=1e-3)


def one_good_head(d: int = 256, n: int = 150) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    common = unit(randn(0, n, d))
    good = unit(common + 0.03 * randn(1, n, d))
    heads = torch.cat([good[None], unit(randn(2, 4, n, d))])
    return {"image": heads}, {"image": common, "text": common}


def test_one_aligned_head_takes_everything_until_tau_agg_rises() -> None:
    Z, G = one_good_head()
    shares = []
    for tau_agg in (1.0, 2.0, 4.0):
        got = fuse(Z, G, Fusion(tau_agg=tau_agg))
        shares.append(float(effective_clients(got.weights["image"]).mean()))
    assert shares == pytest.approx([1.06, 1.66, 3.31], abs=0.15)
    assert fuse(Z, G, Fusion(guard=True)).tau_agg == 2.0
    two = {"image": Z["image"][:2]}  # with one random head alone, 2 does not share enough either
    means = [
        float(effective_clients(fuse(two, G, Fusion(tau_agg=t)).weights["image"]).mean()) for t in (1, 2)
    ]
    assert max(means) < 1.5
    assert fuse(two, G, Fusion(guard=True)).tau_agg == 4.0
    equal, anchors = setup()
    assert fuse(equal, anchors, Fusion(guard=True)).tau_agg == 1.0


def test_attention_recovers_what_random_heads_of_one_modality_hide() -> None:
    n, d = 60, 256
    truth = unit(randn(0, n, d))
    noisy = [unit(truth + 0.06 * randn(i, n, d)) for i in range(1, 8)]
    Z = {
        "image": torch.stack(noisy[:5]),
        "text": torch.stack([*noisy[5:], *(unit(randn(i, n, d)) for i in (8, 9, 10))]),
    }
    G = {"image": truth, "text": truth}

    def cosine(**options) -> float:
        how = Fusion(aggregate="mean", **options)
        return float((fuse(Z, G, how).vectors * truth).sum(1).mean())

    assert cosine() > cosine(temperature=16.0) + 0.005
    assert cosine(temperature=16.0) > cosine(attention=False)


@pytest.mark.parametrize("other", ["message_mean", "joint_multihead"])
def test_learned_attention_lowers_its_own_loss_and_starts_as_identity(other) -> None:
    Z, G = setup(counts=(3, 4), n=48)
    labels = torch.arange(48) % 5
    how = Fusion(other=other, heads=2)

    def learn(steps: int, seed: int = 0, **more) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(seed)
        return learn_attention(Z, G, labels, 5, how, g, steps=steps, batch=16, **more)

    def loss(maps: dict[str, Tensor]) -> float:
        r = fuse(Z, G, how, learned=maps).vectors
        return float(torch.nn.functional.cross_entropy(r @ maps["head"].double().T / how.tau, labels))

    start, maps = learn(0), learn(30)
    assert torch.allclose(fuse(Z, G, how, learned=start).vectors, fuse(Z, G, how).vectors, atol=1e-12)
    assert loss(start) == pytest.approx(math.log(5), abs=1e-6)
    assert loss(maps) < loss(start) - 0.02
    assert loss(maps) < loss({**start, "head": maps["head"]})
    assert all(torch.equal(t, learn(30)[name]) for name, t in maps.items())
    on = learn(1, seed=7, start=maps)
    assert set(on) == {"W_Q", "W_K", "W_V", "type/image", "type/text", "head"}
    assert float((on["W_V"] - maps["W_V"]).abs().max()) <= 1.1e-3  # one step of Adam


def test_scores_of_many_items_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    Z, G = setup()
    whole = torch.log_softmax(torch.einsum("knd,jd->knj", Z["image"], G["text"]) / 0.07, 2)
    monkeypatch.setattr("fedloom.aggregation.fusion._ROWS", 5)  # 13 items: 5, 5 and 3
    got = scores(Z["image"], G["text"], 0.07)
    assert torch.allclose(got, whole.diagonal(dim1=1, dim2=2), atol=1e-10, rtol=0)


def test_nothing_kept_fuses_to_nothing() -> None:
    Z, G = setup(n=0)
    got = fuse(Z, G, Fusion(guard=True))
    assert got.vectors.shape == (0, D)
    assert got.weights["image"].shape == (3, 0)


def test_refusals() -> None:
    Z, G = setup()
    for args, message in [
        (({}, {}), "needs anchors"),
        ((Z, {"image": G["image"]}), "text has clients and no anchors"),
        (({"text": Z["text"][..., 1:]}, G), r"representations of text are \(4, 13, 23\)"),
        ((Z, {"image": G["image"], "text": G["text"][1:]}), r"anchors of text are \(12, 24\)"),
        ((Z, G, Fusion(tau=0.0)), "tau is 0.0"),
        ((Z, G, Fusion(other="joint_multihead", heads=5)), "5 heads do not divide the width 24"),
    ]:
        with pytest.raises(ValueError, match=message):
            fuse(*args)


def towards_truth(how: Fusion, random: int) -> float:
    """Mean cosine of the fused vector with the true one; `random` of five text clients send noise (specification, section 12)."""
    n, d, k = 200, 256, 5
    truth = unit(randn(0, n, d))
    Z = {m: unit(truth + 0.7 * randn(i, k, n, d) / d**0.5) for i, m in enumerate(("image", "text"), 1)}
    Z["text"][:random] = unit(randn(3, random, n, d))
    G = {m: unit(truth + 0.7 * randn(i, n, d) / d**0.5) for i, m in enumerate(Z, 4)}
    return float((fuse(Z, G, how).vectors * truth).sum(-1).mean())


def test_attention_repairs_random_clients_under_a_plain_mean() -> None:
    """Figures of the specification; a temperature of sqrt(d) leaves the attention flat, and good clients need none."""
    found = {
        name: [towards_truth(replace(how, aggregate="mean"), bad) for bad in (3, 0)]
        for name, how in (
            ("none", Fusion(attention=False)),
            ("0.1", Fusion(temperature=0.1)),
            ("sqrt(d)", Fusion(temperature=16.0)),
        )
    }
    assert found["none"][0] == pytest.approx(0.895, abs=0.01)
    assert found["0.1"][0] == pytest.approx(0.943, abs=0.01)
    assert found["sqrt(d)"][0] == pytest.approx(0.914, abs=0.01)
    good = [values[1] for values in found.values()]
    assert max(good) - min(good) < 0.001


def test_contrastive_weights_leave_attention_nothing_to_repair() -> None:
    """They put random clients aside by themselves: attention then costs a little."""
    without, with_attention = (towards_truth(Fusion(attention=on), 3) for on in (False, True))
    assert without > 0.95
    assert with_attention == pytest.approx(without, abs=0.005)
