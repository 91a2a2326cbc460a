"""FedMMKT's steps M0 to M5 and its rivals' losses by their formulas, on models of one matrix (specification fedmmkt 4 and 7)."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.aggregation.fusion import Fusion
from fedloom.core.payload import Payload, Reply
from fedloom.data.sources.labelled import as_tensor
from fedloom.methods import METHODS, State
from fedloom.methods.base.distillation import (
    ENTROPY,
    KEPT,
    LABELS,
    PROBABILITIES,
    VECTORS,
    DistillationServer,
)
from fedloom.methods.creamfl import BEFORE, GLOBAL, SAME
from fedloom.methods.fedmd import CONSENSUS
from fedloom.methods.fedmmkt import CONFIDENCE, FUSED, LABEL
from fedloom.models.generation.public_set import Public, Synthesis
from fedloom.models.generation.settings import SynthesisSettings
from fedloom.models.own.model_bank import ITEMS, ModelBank
from tests.aggregation.test_fusion import by_hand

pytestmark = pytest.mark.identities
N, C, D = 6, 5, 8
MODALITIES = {"i1": "image", "i2": "image", "i3": "image", "t1": "text", "t2": "text"}
PARTS = {"image": slice(0, 3), "text": slice(3, 5)}
EXAMPLES = (1, 4, 7, 2, 9)
seeds = st.integers(0, 2**20)
few = settings(max_examples=15, deadline=None)


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def softmax(x: Tensor) -> Tensor:
    """Row by row, without the library's function."""
    e = (x - x.max(-1, keepdim=True).values).exp()
    return e / e.sum(-1, keepdim=True)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """(B,): KL(p || q)."""
    return (p * (p.log() - q.log())).sum(-1)


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,)."""
    return -softmax(logits).log()[torch.arange(len(labels)), labels]


def outputs(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, unit vectors, and positions among five kept items."""
    return (
        randn(seed, 4, C, dtype=dtype),
        normalize(randn(seed + 1, 4, D, dtype=dtype), dim=-1),
        torch.tensor([3, 0, 4, 3]),
    )


BOTH = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])


@BOTH
@few
@given(
    seed=seeds,
    kd=st.sampled_from([0.0, 0.3, 2.0]),
    pseudo=st.sampled_from([0.0, 0.5]),
    tau=st.sampled_from([0.1, 1.0]),
)
def test_m5_is_kl_between_coordinates_and_confident_cross_entropy(
    seed, kd, pseudo, tau, dtype, tolerance
) -> None:
    logits, z, at = outputs(seed, dtype)
    r = normalize(randn(seed + 2, 5, D), dim=-1)
    labels, confidence = torch.tensor([4, 1, 0, 2, 2]), torch.tensor([0.5, 1.0, 0.7, 0.6, 0.9])
    knowledge = {FUSED: r, LABEL: labels.int(), CONFIDENCE: confidence}
    loss = METHODS["fedmmkt"](kd=kd, pseudo=pseudo, temperature=tau).loss(knowledge)
    if not kd and not pseudo:
        assert loss is None
        return
    own = softmax(z.double() / tau)
    want = kd * kl(softmax(r[at] / tau), own).mean()
    want = want + pseudo * (confidence[at].double() * ce(logits.double(), labels[at])).mean()
    assert float(loss(logits, z, at)) == pytest.approx(float(want), rel=10 * tolerance)


def test_m5_at_temperature_1_would_hardly_pull() -> None:
    """0.0055 against 0.604 per item on unit vectors of width 256: why tau_r is 0.1."""
    z, r = (normalize(randn(s, 400, 256), dim=-1) for s in (0, 1))
    pulls = []
    for tau in (1.0, 0.1):
        free = z.clone().requires_grad_()
        knowledge = {FUSED: r, LABEL: torch.zeros(400).int(), CONFIDENCE: torch.ones(400)}
        loss = METHODS["fedmmkt"](kd=1.0, pseudo=0.0, temperature=tau).loss(knowledge)
        loss(torch.zeros(400, C).double(), free, torch.arange(400)).backward()
        pulls.append(float(400 * free.grad.norm(dim=1).mean()))
    assert pulls == pytest.approx([0.0055, 0.604], rel=0.1)


@BOTH
@few
@given(seed=seeds)
def test_fedmd_and_creamfl_lose_as_published(seed, dtype, tolerance) -> None:
    logits, z, at = outputs(seed, dtype)
    consensus = softmax(randn(seed + 3, 5, C))
    found = METHODS["fedmd"](kd=0.4).loss({CONSENSUS: consensus})(logits, z, at)
    want = 0.4 * kl(consensus[at], softmax(logits.double())).mean()
    assert float(found) == pytest.approx(float(want), rel=10 * tolerance)

    same, before, one, two = (normalize(randn(seed + 4 + i, 5, D), dim=-1) for i in range(4))
    knowledge = {SAME: same, BEFORE: before, "other0": one, "other1": two}
    found = METHODS["creamfl"](gamma=0.5, temperature=0.3).loss(knowledge)(logits, z, at)
    z = z.double()
    inter = torch.stack([ce(z @ g.T / 0.3, at).mean() for g in (one, two)]).mean()
    positive, negative = (torch.exp((z * g[at]).sum(-1) / 0.3) for g in (same, before))
    intra = -(positive / (positive + negative)).log().mean()
    assert float(found) == pytest.approx(0.5 * float(inter + intra), rel=10 * tolerance)
    assert METHODS["creamfl"](gamma=0.0).loss(knowledge) is METHODS["fedmd"](kd=0.0).loss({}) is None


def test_m1_entropy_is_in_nats_and_of_the_softmax() -> None:
    logits, vectors = randn(0, N, C), normalize(randn(1, N, D), dim=-1)
    p = softmax(logits)
    H = -(p * p.log()).sum(-1)
    for soft in (False, True):
        method = METHODS["fedmmkt"].model_validate({"vote": {"vote": "soft" if soft else "hard"}})
        told = method._predictions(logits, vectors)
        torch.testing.assert_close(told[ENTROPY].double(), H, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(told[VECTORS].double(), vectors, rtol=1e-6, atol=1e-7)
        assert set(told) == {ENTROPY, VECTORS, PROBABILITIES if soft else LABELS}
        if soft:
            torch.testing.assert_close(told[PROBABILITIES].double(), p, rtol=1e-5, atol=1e-6)
        else:
            assert told[LABELS].tolist() == p.argmax(-1).tolist()
    flat = METHODS["fedmd"]()._predictions(torch.zeros(1, C), vectors[:1])[ENTROPY]
    assert float(flat) == pytest.approx(math.log(C), rel=1e-6)


class Server(SimpleNamespace):
    """A synthesis whose anchors the test chose, and which says what it was tuned on."""

    def tune(
        self, denoiser: Any, public: Any, chosen: Tensor, labels: Tensor, confidence: Tensor, *rest: Any
    ) -> Any:
        self.told = chosen, labels, confidence
        return {}, 0.25


def asked(seed: int, number: int) -> tuple[SimpleNamespace, dict[str, Tensor], list[Reply], Tensor]:
    """An Ask in round `number`, anchors, replies of five clients, and their probabilities (5, N, C)."""
    anchors = {m: normalize(randn(seed + i, N, D), dim=-1) for i, m in enumerate(("image", "text"))}
    p = softmax(2 * randn(seed + 5, 5, N, C))
    p[:, 0] = softmax(torch.arange(5.0).double()[None])  # all agree on the first item
    z = normalize(randn(seed + 6, 5, N, D), dim=-1)
    H = -(p * p.log()).sum(-1)
    replies = [
        Reply(
            c,
            Payload(
                {ENTROPY: H[k], VECTORS: z[k], PROBABILITIES: p[k], LABELS: p[k].argmax(-1).int()},
                {"examples": EXAMPLES[k]},
            ),
        )
        for k, c in enumerate(MODALITIES)
    ]
    names = [f"class{i}" for i in range(C)]
    synthesis = Server(names=names, anchors=lambda public, width: anchors, settings=SynthesisSettings())
    bank = SimpleNamespace(width=D, modalities=MODALITIES)
    ask = SimpleNamespace(
        tools=DistillationServer(bank, synthesis), round=number, seed=0, note=lambda text: None
    )
    return ask, anchors, replies, p


PUBLIC = Public(
    {"image": torch.zeros(N, 3, 2, 2, dtype=torch.uint8), "text": as_tensor(["a"] * N)}, torch.arange(N) % C
)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("seed", [0, 40])
def test_m2_m3_and_m4_hand_on_what_was_voted_and_fused(seed, number) -> None:
    ask, anchors, replies, p = asked(seed, number)
    w = torch.exp((p * p.log()).sum(-1))
    w = w / w.sum(0)
    shares = torch.zeros(N, C, dtype=torch.float64)
    for k in range(5):
        for i in range(N):
            shares[i, int(p[k, i].argmax())] += w[k, i]
    confidence, labels = shares.max(1)
    threshold = float(confidence.sort().values[1:3].mean())  # two of six items fall through
    kept = (confidence >= threshold).nonzero()[:, 0]
    assert len(kept) == N - 2
    method = METHODS["fedmmkt"].model_validate({"vote": {"threshold": threshold}})
    _, knowledge = method.learn(State({}), PUBLIC, replies, ask)
    assert knowledge[KEPT].tolist() == kept.tolist()
    assert knowledge[LABEL].tolist() == labels[kept].tolist()
    torch.testing.assert_close(knowledge[CONFIDENCE].double(), confidence[kept], rtol=1e-6, atol=1e-7)
    g = {m: a[kept] for m, a in anchors.items()}
    if number == 2:
        fused = normalize((g["image"] + g["text"]) / 2, dim=-1)
    else:
        z = torch.stack([r.payload.tensors[VECTORS] for r in replies])[:, kept]
        fused = by_hand({"image": z[:3], "text": z[3:]}, g, Fusion())
    torch.testing.assert_close(knowledge[FUSED].double(), fused, rtol=1e-5, atol=1e-6)
    chosen, told, weights = ask.tools.synthesis.told
    assert (chosen.tolist(), told.tolist()) == (kept.tolist(), labels[kept].tolist())
    torch.testing.assert_close(weights.double(), confidence[kept], rtol=1e-6, atol=1e-7)


def test_the_others_mean_as_anchor_is_weighted_by_the_clients_data() -> None:
    ask, _, replies, _ = asked(7, 3)
    method = METHODS["fedmmkt"].model_validate({"vote": {"threshold": 0}, "fusion": {"anchor": "other_mean"}})
    _, knowledge = method.learn(State({}), PUBLIC, replies, ask)
    z = torch.stack([r.payload.tensors[VECTORS] for r in replies])
    n = torch.tensor(EXAMPLES, dtype=torch.float64)[:, None, None]
    g = {m: normalize((n[at] * z[at]).sum(0) / n[at].sum(), dim=-1) for m, at in PARTS.items()}
    fused = by_hand({m: z[at] for m, at in PARTS.items()}, g, Fusion())
    torch.testing.assert_close(knowledge[FUSED].double(), fused, rtol=1e-5, atol=1e-6)


def test_fedmd_takes_the_mean_prediction_and_creamfl_weighs_by_the_other_modalitys_anchors() -> None:
    ask, anchors, replies, p = asked(3, 2)
    _, knowledge = METHODS["fedmd"]().learn(State({}), PUBLIC, replies, ask)
    torch.testing.assert_close(knowledge[CONSENSUS], sum(p) / 5, rtol=1e-12, atol=1e-12)
    _, knowledge = METHODS["fedmd"](consensus="logits").learn(State({}), PUBLIC, replies, ask)
    torch.testing.assert_close(knowledge[CONSENSUS], softmax(sum(p.log()) / 5), rtol=1e-10, atol=1e-10)
    _, knowledge = METHODS["creamfl"](tau=0.2).learn(State({}), PUBLIC, replies, ask)
    for m, other, rows in (("image", "text", replies[:3]), ("text", "image", replies[3:])):
        z = torch.stack([r.payload.tensors[VECTORS] for r in rows])
        s = torch.stack([softmax(x @ anchors[other].T / 0.2).diagonal().log() for x in z])
        a = s.exp() / s.exp().sum(0)
        want = normalize((a[..., None] * z).sum(0), dim=-1)
        torch.testing.assert_close(knowledge[f"{GLOBAL}{m}"], want, rtol=1e-9, atol=1e-10)


class Bank:
    """Models of one matrix: logits x W, and the same for vectors; items are rows."""

    def __init__(self, modalities: Any = MODALITIES) -> None:
        self.modalities, self.width = modalities, D
        self.tensors: dict[str, Tensor] = {}

    def read_items(self, items: Tensor, client: str) -> list[Tensor]:
        return list(items)

    def load(self, tensors: Any) -> None:
        self.tensors = {n: torch.nn.Parameter(t.clone()) for n, t in tensors.items()}

    def begin(self, names: Any) -> list[Tensor]:
        return [self.tensors[n] for n in names]

    def rest(self) -> None:
        pass

    def outputs(self, items: list[Tensor]) -> tuple[Tensor, Tensor]:
        (W,) = self.tensors.values()
        x = torch.stack(items)
        return x @ W, normalize(x @ W, dim=-1)

    def inferred(self, tensors: Any, items: list[Tensor]) -> tuple[Tensor, Tensor]:
        self.load(tensors)
        with torch.no_grad():
            return self.outputs(items)


def test_feddf_distils_the_softmax_of_the_mean_logits_into_each_architectures_mean() -> None:
    """One step of AdamW from rest moves by lr against the gradient's sign; KL's gradient is x^T (softmax(xW) - teacher) / N."""
    x = randn(0, 4, D)
    weights = {c: randn(k + 1, D, C) for k, c in enumerate(MODALITIES)}
    group = {c: "vit" if c in ("i1", "i2") else "resnet" if c == "i3" else "bert" for c in MODALITIES}
    replies = [Reply(c, Payload({f"{group[c]}/w": weights[c]}, {"examples": 1})) for c in MODALITIES]
    synthesis = SimpleNamespace(public=lambda *_: Public({"image": x, "text": x}, torch.zeros(4)))
    ask = lambda *_, **__: replies  # noqa: E731 - an Ask with attributes
    ask.tools, ask.seed, ask.round = DistillationServer(Bank(), synthesis), 0, 1
    method = METHODS["feddf"](steps=1, lr=1e-3)
    after = method.round(State({}), ask).shared
    teacher = softmax(sum(x @ w for w in weights.values()) / 5)
    for name in ("vit", "resnet", "bert"):
        members = [weights[c] for c in MODALITIES if group[c] == name]
        student = sum(members) / len(members)
        gradient = x.T @ (softmax(x @ student) - teacher) / 4
        want = student - 1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after[f"{name}/w"], want, rtol=1e-10, atol=1e-12)


def test_public_batches_are_the_kept_items_under_their_own_labels(monkeypatch) -> None:
    bank, items = Bank(), randn(0, N, D)
    monkeypatch.setattr(ModelBank, "of", staticmethod(lambda model: model))
    kept = torch.tensor([1, 4, 5]).int()
    labels, r = torch.tensor([2, 0, 3]).int(), normalize(randn(1, 3, C), dim=-1)
    knowledge = {KEPT: kept, LABEL: labels, CONFIDENCE: torch.tensor([1.0, 0.6, 0.8]), FUSED: r}
    trainer = SimpleNamespace(
        model=bank, client="i1", personal={ITEMS: items}, stream=lambda name: torch.Generator().manual_seed(0)
    )
    method = METHODS["fedmmkt"](public_batch=3)
    own = {"vit/w": randn(2, D, C)}
    bank.load(own)
    penalty = method._penalty(Payload(knowledge), trainer, own)
    logits = items[kept.long()] @ own["vit/w"]
    z = normalize(logits, dim=-1)
    want = 0.3 * kl(softmax(r / 0.1), softmax(z / 0.1)).mean()
    want = want + 0.5 * (knowledge[CONFIDENCE].double() * ce(logits, labels.long())).mean()
    assert float(penalty({}).detach()) == pytest.approx(float(want), rel=1e-9)
    empty = {**knowledge, KEPT: kept[:0]}
    assert method._penalty(Payload(empty), trainer, own) is None


class Drawn:
    """A generator and a captioner in one: pictures and captions are known, and tuning is recorded."""

    channels, size, tensors, start, frozen_key, device = 3, 2, {}, {}, b"", "cpu"
    said = ("a seven with a roof", "a loop", "Eight, open below")

    def load_tensors(self, tensors: Any) -> None:
        pass

    def sample(self, prompts: list[str], rng: Any, **how: Any) -> Tensor:
        self.prompts = prompts
        return torch.arange(len(prompts) * 12).reshape(-1, 3, 2, 2).to(torch.uint8)

    def caption(self, pictures: Tensor, **how: Any) -> list[str]:
        return list(self.said)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        return normalize(pictures.flatten(1).double() + 1, dim=-1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        return normalize(torch.tensor([[len(t), *[1.0] * 11] for t in texts]).double(), dim=-1)

    def tune(
        self, start: Any, pictures: Tensor, prompts: list[str], weights: Tensor, rng: Any, **how: Any
    ) -> Any:
        self.tuned = pictures, prompts, weights
        return {}, 0.0


def test_m0_prompts_name_the_class_captions_do_not_and_m4_says_the_voted_class_and_the_caption() -> None:
    both = Drawn()
    names = ("seven", "loop", "eight")
    synthesis = Synthesis(SynthesisSettings(per_class=1), both, both, names, ("image", "text"))
    public = synthesis.public({}, 0, 2)
    assert both.prompts == [f"a picture of a {n}" for n in names]
    assert public.captions == ["a with a roof", "a", ", open below"]
    assert (public.hits, public.prompted.tolist()) == (3, [0, 1, 2])
    voted = torch.tensor([2, 1])
    synthesis.tune({}, public, torch.tensor([0, 2]), voted, torch.tensor([0.6, 0.9]), 0, 2)
    pictures, prompts, weights = both.tuned
    assert prompts == ["a picture of a eight, a with a roof", "a picture of a loop, , open below"]
    assert torch.equal(pictures, public.items["image"][[0, 2]])
    assert weights.tolist() == pytest.approx([0.6, 0.9])
    anchors = synthesis.anchors(public, 12)
    torch.testing.assert_close(anchors["text"], both.embed_texts(public.captions))
    torch.testing.assert_close(anchors["image"], both.embed_pictures(public.items["image"]))
