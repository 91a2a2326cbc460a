"""FedMMKT, reconstructed: a text-to-image server and clients of any architecture teach each other through synthetic items.

Paper: "FedMMKT: Co-Enhancing a Server Text-to-Image Model and Client Task Models in Multi-Modal Federated Learning" (arXiv
2510.12254). Its equations and hyper-parameters are not public: this is our reconstruction from two summaries, completed by
specification fedmmkt (docs/methods/fedmmkt.md separates what is published from what is ours). Its steps are called M0 to M5;
M0, M1 and the order of a round are in `methods.base.distillation`.

Deliberate choices:
- Round 1 is the warm-up; round 2 sends the anchors' mean (untrained projections share no space); fusion starts in round 3.
- Baselines that differ in one step are options of this method: uniform votes, mean or contrastive fusion without attention, a
  frozen generator, a generator that trains on its own prompts, prompt labels for clients.
- Not built: conditioning the denoiser on r (`cond_fused`) and a temperature for each client (`calibrate`).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from fedloom.aggregation import fusion, voting
from fedloom.core.payload import Reply
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import stream_seed, torch_stream
from fedloom.methods.base.distillation import (
    ENTROPY,
    KEPT,
    LABELS,
    PROBABILITIES,
    VECTORS,
    DistillationMethod,
    Loss,
    server_of,
)
from fedloom.methods.base.measure import Measure
from fedloom.methods.base.method import Ask, State
from fedloom.models.generation.public_set import Public
from fedloom.models.own.model_bank import KNOWLEDGE

LABEL, CONFIDENCE, FUSED = (f"{KNOWLEDGE}/{n}" for n in ("label", "confidence", "representation"))
ATTENTION = "attention/"
FIRST_FUSION = 3
"""The first round after projections were trained on anchors."""


class LabVote(BaseModel):
    """M2. Defaults: entropy weights exp(-H), hard votes, threshold 0.5 on the winner's share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: voting.Weight = Field(
        "exp", description="vote weight from the entropy: exp | one_minus_norm | exp_norm | inv | uniform"
    )
    vote: voting.Kind = Field(
        "hard", description="hard: the likeliest class; soft: probabilities (C numbers up)"
    )
    gate: voting.Gate = Field(
        "share",
        description="condition for keeping an item: share | client_entropy | prompt_agreement | share_and_prompt",
    )
    threshold: float = Field(0.5, ge=0, description="beta, of the gate; 0 keeps all items, above 1 none")
    rejected: voting.Rejected = Field("drop", description="rejected items: drop | prompt_label")


class Fusing(BaseModel):
    """M3. Defaults: attention over clients with the identity, contrastive weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attention: Literal["identity", "learned", "none"] = Field(
        "identity",
        description="cross-attention between modalities: identity | learned (on the server) | none",
    )
    temperature: float = Field(0.1, gt=0, description="tau_a, temperature of attention")
    share: Annotated[float, ReadWith(".attention", ("identity", "learned"))] = Field(
        0.5, ge=0, description="lambda_a, weight of the attended vectors"
    )
    other: Annotated[
        Literal["message_mean", "client_mean", "joint_multihead"],
        ReadWith(".attention", ("identity", "learned")),
    ] = Field(
        "message_mean",
        description="attention to several other modalities: message_mean | client_mean | joint_multihead",
    )
    heads: Annotated[int, ReadWith(".other", ("joint_multihead",))] = Field(
        4, ge=1, description="number of heads of joint_multihead"
    )
    aggregate: Literal["contrastive", "mean"] = Field(
        "contrastive", description="client weights: contrastive | mean"
    )
    tau: float = Field(0.07, gt=0, description="temperature of contrastive scores")
    tau_agg: Annotated[float, ReadWith(".aggregate", ("contrastive",))] = Field(
        1.0, gt=0, description="temperature of the weights over clients"
    )
    guard: Annotated[bool, ReadWith(".aggregate", ("contrastive",))] = Field(
        False, description="raise tau_agg while fewer than 1.5 clients are effective"
    )
    anchor: Literal["blip", "ridge", "other_mean"] = Field(
        "blip",
        description="blip: the captioner's embeddings; ridge: fitted on first items; other_mean: clients' means by data size",
    )


class FedMMKT(DistillationMethod):
    """LabVote, MultiRepFusion, a denoiser trained on voted labels, clients distilled from fused representations."""

    name: ClassVar[str] = "fedmmkt"
    title: ClassVar[str] = "FedMMKT (reconstruction)"
    paper: ClassVar[str] = "FedMMKT (2025), our reconstruction"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("masked_names", "class names taken out of captions", "count"),
    )

    vote: LabVote = Field(LabVote(), description="M2: one label for every item")
    fusion: Fusing = Field(Fusing(), description="M3: one vector for every item")
    labels: Literal["vote", "prompt"] = Field(
        "vote", description="vote; prompt: every item has its prompt's class, with confidence 1"
    )
    generator: Literal["voted", "self", "frozen"] = Field(
        "voted",
        description="training of the denoiser: voted: on voted labels; self: on its own prompts, as many steps; frozen",
    )
    kd: float = Field(0.3, ge=0, description="lambda_kd, weight of the divergence between representations")
    pseudo: float = Field(0.5, ge=0, description="lambda_v, weight of the cross entropy with voted labels")
    temperature: float = Field(
        0.1, gt=0, description="tau_r, temperature of the softmax over a representation's components"
    )

    @property
    def soft(self) -> bool:  # type: ignore[override]
        """A soft vote needs probabilities."""
        return self.vote.vote == "soft"

    def learn(
        self, state: State, public: Public, replies: Sequence[Reply], ask: Ask
    ) -> tuple[State, dict[str, Tensor]]:
        """Vote, fuse, and tune the generator: M2, M3, M4."""
        kept, labels, confidence, metrics = self._voted(public, replies, ask)  # M2
        knowledge = {KEPT: kept.int(), LABEL: labels[kept].int(), CONFIDENCE: confidence[kept].float()}
        tensors: dict[str, Tensor] = {}
        fused = torch.zeros(0, server_of(ask).bank.width)
        if len(kept):
            fused, tensors, measured = self._fused(state, public, kept, labels[kept], replies, ask)  # M3
            metrics |= measured
        trained, loss = self._tuned(state, public, kept, labels[kept], confidence[kept], ask)  # M4
        if loss is not None:
            metrics["generator/loss"] = loss
        votes = {"vote/item": kept, "vote/label": labels[kept]}
        values = {**state.values, "measured": {**metrics, "synthesis/masked_names": float(public.hits)}}
        state = State(state.shared, {**state.tensors, **trained, **tensors, **votes}, values)
        return state, {**knowledge, FUSED: fused}

    def _voted(
        self, public: Public, replies: Sequence[Reply], ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
        """M2 LabVote: indices of the kept items, every item's label and confidence, and figures."""
        prompted = public.prompted
        if self.labels == "prompt":
            items = torch.arange(len(prompted))
            return items, prompted, torch.ones(len(prompted)), {"vote/coverage": 1.0, "vote/relabelled": 0.0}
        key = PROBABILITIES if self.soft else LABELS
        answers = torch.stack([r.payload.tensors[key] for r in replies])
        votes = voting.labvote(
            torch.stack([r.payload.tensors[ENTROPY] for r in replies]),
            len(server_of(ask).synthesis.names),
            labels=None if self.soft else answers.long(),
            probabilities=answers if self.soft else None,
            prompted=prompted,
            **self.vote.model_dump(),
        )
        metrics = {f"vote/{n}": v for n, v in voting.vote_measures(votes, prompted).items()}
        return votes.kept.nonzero()[:, 0], votes.labels, votes.confidence, metrics

    def _fused(
        self, state: State, public: Public, kept: Tensor, labels: Tensor, replies: Sequence[Reply], ask: Ask
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """M3 MultiRepFusion: r of the kept items, the server's tensors for the next round, and figures."""
        clients: dict[str, list[Reply]] = {}
        for reply in replies:
            clients.setdefault(server_of(ask).modalities[reply.client], []).append(reply)
        Z = {
            m: torch.stack([r.payload.tensors[VECTORS][kept] for r in members])
            for m, members in sorted(clients.items())
        }
        sizes = {m: torch.tensor([float(r.examples) for r in members]) for m, members in clients.items()}
        anchors, kept_tensors = self._anchors(state, public, Z, sizes, kept, ask)
        anchors = {m: g for m, g in anchors.items() if m in ("image", "text") or m in Z}
        options = self.fusion.model_dump(exclude={"attention", "anchor"})
        settings = fusion.Fusion(attention=self.fusion.attention != "none", **options)
        if ask.round < FIRST_FUSION:  # bootstrap: untrained projections share no space
            return fusion.fuse({}, anchors, settings).vectors.float(), kept_tensors, {}
        learned = None
        if self.fusion.attention == "learned":
            before = {
                n.removeprefix(ATTENTION): t for n, t in state.tensors.items() if n.startswith(ATTENTION)
            }
            rng = torch_stream(ask.seed, "attention", ask.round)
            count = len(server_of(ask).synthesis.names)
            learned = fusion.learn_attention(Z, anchors, labels, count, settings, rng, start=before or None)
            kept_tensors |= {f"{ATTENTION}{n}": t for n, t in learned.items()}
        fused = fusion.fuse(Z, anchors, settings, learned=learned)
        metrics = _fusion_figures(fused, Z, clients)
        if warning := fusion.collapse(fused.weights, fused.vectors):
            ask.note(warning)
        return fused.vectors.float(), kept_tensors, metrics

    def _anchors(
        self,
        state: State,
        public: Public,
        Z: Mapping[str, Tensor],
        sizes: Mapping[str, Tensor],
        kept: Tensor,
        ask: Ask,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Anchors g (n, d) of the kept items by modality, and the ridge maps, fitted once.

        `Z` (K, n, d) and `sizes` (K,): the vectors and numbers of examples of each modality's clients.
        """
        width = server_of(ask).bank.width
        if self.fusion.anchor == "ridge":
            known = {n: t for n, t in state.tensors.items() if n.startswith("ridge/")}
            pictures, captions = public.items["image"], public.captions
            if not known:
                fitted = fusion.ridge_reference_embeddings(
                    pictures, captions, width, stream_seed(ask.seed, "ridge")
                )
                known = dict(zip(("ridge/pixels", "ridge/words"), fitted, strict=True))
            pixels = fusion.picture_reference_embeddings(pictures, known["ridge/pixels"])[kept]
            words = fusion.word_reference_embeddings(captions, known["ridge/words"])[kept]
            return {m: words if m == "text" else pixels for m in public.items}, known
        anchors = {m: g[kept] for m, g in server_of(ask).synthesis.anchors(public, width).items()}
        if self.fusion.anchor == "other_mean" and ask.round >= FIRST_FUSION:
            anchors |= {m: fusion.other_mean(z, sizes[m]) for m, z in Z.items()}
        return anchors, {}

    def _tuned(
        self, state: State, public: Public, kept: Tensor, labels: Tensor, confidence: Tensor, ask: Ask
    ) -> tuple[dict[str, Tensor], float | None]:
        """M4: the tuned denoiser and its loss; {} and None where it is frozen or no item was kept."""
        if self.generator == "frozen" or not len(kept):
            return {}, None
        steps = None
        if self.generator == "self":  # as many steps as FedMMKT takes on what it keeps
            settings = server_of(ask).synthesis.settings
            steps = settings.passes * -(-len(kept) // settings.batch_size)
            kept, labels = torch.arange(len(public.prompted)), public.prompted
            confidence = torch.ones(len(kept))
        return server_of(ask).synthesis.tune(
            self.denoiser(state), public, kept, labels, confidence, ask.seed, ask.round, steps
        )

    def loss(self, knowledge: Mapping[str, Tensor]) -> Loss | None:
        """M5: lambda_kd KL(softmax(r / tau) || softmax(q(f(x)) / tau)) + lambda_v conf CE(h(f(x)), y)."""
        if not self.kd and not self.pseudo:
            return None
        targets = (knowledge[FUSED] / self.temperature).softmax(-1)
        labels, confidence = knowledge[LABEL].long(), knowledge[CONFIDENCE]

        def loss(logits: Tensor, vectors: Tensor, at: Tensor) -> Tensor:
            log_probabilities = (vectors / self.temperature).log_softmax(-1)
            kl = kl_div(log_probabilities, targets[at].to(log_probabilities), reduction="batchmean")
            ce = cross_entropy(logits, labels[at].to(logits.device), reduction="none")
            return self.kd * kl + self.pseudo * (confidence[at].to(ce) * ce).mean()

        return loss


def _fusion_figures(
    fused: fusion.Fused, Z: Mapping[str, Tensor], clients: Mapping[str, Sequence[Reply]]
) -> dict[str, float]:
    """Effective clients, weights, and separability of the fused vectors (specification fedmmkt 9)."""
    metrics: dict[str, Any] = {}
    for m, a in fused.weights.items():
        metrics[f"fusion/{m}/effective_clients"] = fusion.effective_clients(a).mean()
        metrics[f"fusion/{m}/max_weight"] = a.max(0).values.mean()
        metrics |= {f"fusion/{r.client}/weight": w.mean() for r, w in zip(clients[m], a, strict=True)}
    error = fusion.alignment_error(Z, fused.vectors)
    metrics["fusion/alignment_error"] = error.mean()
    metrics["fusion/alignment_variance"] = error.var(unbiased=False)
    metrics |= {"fusion/rank99": fusion.rank99(fused.vectors), "fusion/tau_agg": fused.tau_agg}
    if len(fused.vectors) > 1:
        metrics["fusion/cosine"] = fusion.pairwise_cosine(fused.vectors)
    return {name: float(value) for name, value in metrics.items()}
