"""LabVote: one label for each synthetic item, from the clients' predictions weighted by their entropy (FedMMKT, M2).

K clients of all modalities, N items, C classes. The form of the vote is our reconstruction (docs/methods/fedmmkt.md):
the source states entropy weights and a threshold of 0.5. Everything is computed in float64.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Weight = Literal["exp", "one_minus_norm", "exp_norm", "inv", "uniform"]
Kind = Literal["hard", "soft"]
Gate = Literal["share", "client_entropy", "prompt_agreement", "share_and_prompt"]
Rejected = Literal["drop", "prompt_label"]

MAJORITY = 0.5  # client_entropy: least share of the winner among the clients that may vote
_ROUNDING = 1e-12  # shares nearer than this are equal, whatever the order of summation
_SURE = 1e-12  # nats: least entropy of inv, which bounds 1/H


@dataclass(frozen=True)
class Vote:
    """The outcome for N items.

    labels: int64 (N,). Of an item that is not kept: the vote's winner, or the prompted class if nobody voted.
    confidence: float64 (N,), the winner's share; 1/2 where the prompt's label replaces it.
    kept: bool (N,).
    shares: float64 (N, C), rows sum to 1; a row of zeros where nobody voted.
    """

    labels: Tensor
    confidence: Tensor
    kept: Tensor
    shares: Tensor


def vote_weights(
    entropies: Tensor, classes: int, how: Weight = "exp", present: Tensor | None = None
) -> Tensor:
    """(K, N), float64: each client's weight on each item; columns sum to 1, or are zero where nobody is present.

    Args:
        entropies: H (K, N), nats, in [0, log C].
        classes: C, at least 2.
        how: `exp` e^-H; `one_minus_norm` 1 - H/log C; `exp_norm` e^(-H/log C); `inv` 1/H; `uniform`.
        present: bool (K, N), True where a client predicted an item; None: everywhere.

    Raises ValueError on shapes that do not fit, fewer than 2 classes, an unknown `how` and entropies that are not finite.

    """
    if entropies.ndim != 2 or (present is not None and present.shape != entropies.shape):
        shape = None if present is None else tuple(present.shape)
        raise ValueError(f"entropies are {tuple(entropies.shape)} and present {shape}; both must be (K, N).")
    if classes < 2:
        raise ValueError(f"classes is {classes}; a vote needs at least 2.")
    here = torch.ones_like(entropies, dtype=torch.bool) if present is None else present
    H = entropies.detach().double().masked_fill(~here, 0.0).clamp_min(0.0)
    if not bool(H.isfinite().all()):
        raise ValueError("an entropy is not finite; a softmax's entropy lies between 0 and log C.")
    relative = H / math.log(classes)
    if how == "exp":
        raw = torch.exp(-H)
    elif how == "one_minus_norm":
        raw = (1 - relative).clamp_min(0.0)
    elif how == "exp_norm":
        raw = torch.exp(-relative)
    elif how == "inv":
        raw = _SURE / H.clamp_min(_SURE)
    elif how == "uniform":
        raw = torch.ones_like(H)
    else:
        raise ValueError(f"how is {how!r}; it must be one of {', '.join(get_args(Weight))}.")
    raw = raw * here
    # Clients that all know nothing weigh 0 each under one_minus_norm: then they weigh the same.
    raw = torch.where(raw.sum(0) > 0, raw, here.double())
    return raw / raw.sum(0).clamp_min(1e-300)


def labvote(
    entropies: Tensor,
    classes: int,
    *,
    labels: Tensor | None = None,
    probabilities: Tensor | None = None,
    prompted: Tensor,
    weight: Weight = "exp",
    vote: Kind = "hard",
    gate: Gate = "share",
    threshold: float = 0.5,
    rejected: Rejected = "drop",
    present: Tensor | None = None,
) -> Vote:
    """v_i(y) = sum_c w_ci 1[argmax p_ci = y], the winner and whether it is kept; ties go to the lowest class.

    Args:
        entropies: H (K, N), nats.
        classes: C.
        labels: int64 (K, N), argmax of each client's p, for a hard vote; None takes it from `probabilities`.
        probabilities: p (K, N, C); a soft vote needs them: v = sum_c w p.
        prompted: int64 (N,), the class in each item's prompt.
        weight: see `vote_weights`.
        vote: `hard` or `soft`.
        gate: `share` keeps an item if the winner's share is at least `threshold`; `client_entropy` lets a client vote on an item
            only if H <= `threshold` log C and keeps a majority (1/2) of those; `prompt_agreement` keeps an item if the winner
            is the prompted class; `share_and_prompt` asks for the first and the third.
        threshold: beta_vote; of a share, 0 keeps everything that anybody voted on, above 1 nothing.
        rejected: `drop`, or `prompt_label`: an item that is not kept takes the prompted class, confidence 1/2, and is kept.
        present: bool (K, N), True where a client predicted an item; None: everywhere.

    Raises ValueError on shapes that do not fit, labels out of range, unknown options, and missing votes.

    """
    here = torch.ones_like(entropies, dtype=torch.bool) if present is None else present
    _check(gate, Gate, "gate")
    _check(rejected, Rejected, "rejected")
    if labels is not None and labels.shape == here.shape:
        labels = labels.masked_fill(~here, 0)
    ballots = _ballots(entropies, classes, labels, probabilities, vote)
    if prompted.shape != entropies.shape[1:]:
        raise ValueError(f"prompted is {tuple(prompted.shape)}; it must be ({entropies.shape[1]},).")
    highest = threshold * math.log(classes) * (1 + 1e-6)  # log C in float32 is log C
    may = here & (entropies <= highest) if gate == "client_entropy" else here
    w = vote_weights(entropies, classes, weight, may)
    if ballots.ndim == 3:
        shares = torch.einsum("kn,knc->nc", w, ballots.masked_fill(~here[..., None], 0.0))
    else:
        shares = w.new_zeros(w.shape[1], classes).scatter_add_(1, ballots.T, w.T)
    confidence = shares.amax(1)
    winner = (shares >= confidence[:, None] - _ROUNDING).int().argmax(1)  # the first of equal ones
    voted = may.any(0)
    winner = torch.where(voted, winner, prompted)
    bar = MAJORITY if gate == "client_entropy" else threshold
    enough = confidence >= bar - _ROUNDING
    agrees = winner == prompted
    kept = {"prompt_agreement": agrees, "share_and_prompt": agrees & enough}.get(gate, enough) & voted
    if rejected == "prompt_label":
        half = torch.full_like(confidence, 0.5)
        winner, confidence = torch.where(kept, winner, prompted), torch.where(kept, confidence, half)
        kept = torch.ones_like(kept)
    return Vote(winner, confidence, kept, shares)


def vote_measures(vote: Vote, prompted: Tensor, truth: Tensor | None = None) -> dict[str, float]:
    """Measures of a vote, as shares; `truth` (N,) is an oracle's label, for evaluation only.

    coverage: items kept. relabelled: kept items whose label is not the prompted one. precision: kept items whose label is
    the truth. prompt_accuracy: all items whose prompted class is the truth. A share of no items is left out.
    """
    kept = vote.kept
    measures = {"coverage": _share(kept), "relabelled": _share((vote.labels != prompted)[kept])}
    if truth is not None:
        measures["precision"] = _share((vote.labels == truth)[kept])
        measures["prompt_accuracy"] = _share(prompted == truth)
    return {name: value for name, value in measures.items() if value is not None}


def _ballots(
    entropies: Tensor, classes: int, labels: Tensor | None, probabilities: Tensor | None, vote: Kind
) -> Tensor:
    """int64 (K, N) of a hard vote or float64 (K, N, C) of a soft one, checked."""
    _check(vote, Kind, "vote")
    if probabilities is not None and probabilities.shape != (*entropies.shape, classes):
        shape = (*entropies.shape, classes)
        raise ValueError(f"probabilities are {tuple(probabilities.shape)}; they must be {shape}.")
    if vote == "soft":
        if probabilities is None:
            raise ValueError("a soft vote needs the clients' probabilities; a hard one does with labels.")
        return probabilities.detach().double()
    if labels is None:
        if probabilities is None:
            raise ValueError("a vote needs the clients' labels or their probabilities.")
        return probabilities.detach().argmax(2)
    if labels.shape != entropies.shape:
        raise ValueError(f"labels are {tuple(labels.shape)}; they must be {tuple(entropies.shape)}.")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"a label lies outside 0 to {classes - 1}.")
    return labels.long()


def _check(value: str, options: object, name: str) -> None:
    if value not in get_args(options):
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(get_args(options))}.")


def _share(true: Tensor) -> float | None:
    return float(true.double().mean()) if true.numel() else None
