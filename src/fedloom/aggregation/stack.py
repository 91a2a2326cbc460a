"""A cohort's LoRA factors: checked, padded, scaled and stacked in working precision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Factors = Tensor | Sequence[Tensor]
Weights = Tensor | Sequence[float] | None
Tail = Literal["rescale", "pad", "keep"]

_TAILS = ("rescale", "pad", "keep")


@dataclass(frozen=True)
class Stack:
    """A cohort's factors, zero-padded to one rank r, in float32 or float64, with scales folded into B.

    `A` is (K, r, d_in), `B` is (K, d_out, r), `weights` is (K,) and sums to 1, `ranks` holds the K ranks
    before padding. `holders` is h of shape (r,): h_j is the weight of the clients whose rank exceeds j, or
    None where no client was padded. `dtypes` are those in which A and B came.
    """

    A: Tensor
    B: Tensor
    weights: Tensor
    ranks: tuple[int, ...]
    holders: Tensor | None
    tail: Tail
    dtypes: tuple[torch.dtype, torch.dtype]

    def mean(self) -> tuple[Tensor, Tensor]:
        """Ā (r, d_in) and B̄ (d_out, r); padded rows of Ā are rescaled unless `tail` is "pad"."""
        return self.mean_first(), torch.tensordot(self.weights, self.B, dims=1)

    def mean_first(self) -> Tensor:
        """Ā (r, d_in) alone."""
        A_bar: Tensor = torch.tensordot(self.weights, self.A, dims=1)
        if self.holders is not None and self.tail != "pad":
            A_bar = A_bar / _nonzero(self.holders)[:, None]
        return A_bar

    def joined(self) -> tuple[Tensor, Tensor]:
        """`[A_1; ...]` (n, d_in) and `[p_1 B_1, ...]` (d_out, n), n the sum of ranks; their product is U."""
        B = self.weights[:, None, None] * self.B
        if self.holders is None:
            return self.A.flatten(0, 1), B.transpose(0, 1).flatten(1)
        A_k = [a[:r] for a, r in zip(self.A, self.ranks, strict=True)]
        B_k = [b[:, :r] for b, r in zip(B, self.ranks, strict=True)]
        return torch.cat(A_k), torch.cat(B_k, dim=1)

    def out(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The pair in the dtypes in which the factors came."""
        return A.to(self.dtypes[0]), B.to(self.dtypes[1])


def stack(
    A: Factors,
    B: Factors,
    weights: Weights = None,
    scales: Weights = None,
    rank: int | None = None,
    tail: Tail = "rescale",
    *,
    checked: bool = True,
) -> Stack:
    """Check and stack the factors of K clients; bf16 and fp16 become float32.

    `A` is (K, r, d_in) or K tensors (r_k, d_in); `B` is (K, d_out, r) or K tensors (d_out, r_k).
    `scales[k]` is s_k / s, the client's LoRA scale over the one the result will be used with. `rank` is
    the rank after padding, by default the largest of the cohort. `tail` is the treatment of rows that some
    clients lack (fedlora.md section 5). Raises ValueError on shapes, dtypes, ranks or weights that do not fit, and
    on values that are not finite; with `checked` False the caller calls `refuse_unless_finite` with its results.
    """
    if tail not in _TAILS:
        raise ValueError(f"tail is {tail!r}; it must be one of {', '.join(_TAILS)}.")
    ranks, dtypes = _ranks_and_dtypes(A, B)
    p = normalised(weights, len(ranks))
    r = max(ranks) if rank is None else rank
    if r < max(ranks):
        raise ValueError(f"rank is {r}, but a client has rank {max(ranks)}; pad to that or more.")
    work = torch.promote_types(torch.promote_types(*dtypes), torch.float32)
    padded = any(r_k != r for r_k in ranks)
    if padded:
        A = [torch.nn.functional.pad(a, (0, 0, 0, r - a.shape[0])) for a in A]
        B = [torch.nn.functional.pad(b, (0, r - b.shape[1])) for b in B]
    A_all, B_all = ((f if isinstance(f, Tensor) else torch.stack(list(f))).detach().to(work) for f in (A, B))
    holders = None
    if scales is not None:
        B_all = B_all * _ratios(scales, len(ranks)).to(B_all)[:, None, None]
    if padded:
        holds = torch.tensor([[float(j < r_k) for j in range(r)] for r_k in ranks], dtype=torch.float64)
        holders = (p @ holds).to(A_all)
        if tail == "keep":
            B_all = B_all / _nonzero(holders)
    stacked = Stack(A_all, B_all, p.to(A_all), ranks, holders, tail, dtypes)
    if checked or not float(stacked.weights.min()) > 0:  # factors of weight 0 propagate to no result
        refuse_unless_finite([stacked], A_all, B_all)
    return stacked


def refuse_unless_finite(layers: Sequence[Stack], *results: Tensor) -> None:
    """Raises ValueError if a factor of a layer holds a value that is not finite. Every element contributes to `results`.

    NaN and infinity propagate to them, so that the factors are read only where a result is not finite;
    large finite factors may give such a result, too.
    """
    if all(math.isfinite(float(t.sum())) for t in results):
        return
    for name in ("A", "B"):
        if not all(bool(torch.isfinite(s.A if name == "A" else s.B).all()) for s in layers):
            raise ValueError(f"{name} holds values that are not finite; refuse such clients first.")


def normalised(weights: Weights, count: int) -> Tensor:
    """The K weights as float64 on the CPU, uniform if None; ValueError unless finite, >= 0, of sum 1."""
    if count < 1:
        raise ValueError("there is no client to aggregate; at least one is needed.")
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    p = torch.as_tensor(weights, dtype=torch.float64, device="cpu").detach()
    if p.shape != (count,):
        raise ValueError(f"weights have shape {tuple(p.shape)}; there must be one per client, {count}.")
    if not bool(torch.isfinite(p).all()) or bool((p < 0).any()):
        raise ValueError("every weight must be a finite number that is not negative.")
    total = float(p.sum())
    if not math.isclose(total, 1, abs_tol=1e-5):
        raise ValueError(f"weights sum to {total:.6g}; they must sum to 1.")
    return p / total


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64 where the device has it, else float32."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _nonzero(h: Tensor) -> Tensor:
    # Rows without holders are zero: they are divided by 1.
    return torch.where(h > 0, h, torch.ones_like(h))


def _ratios(scales: Tensor | Sequence[float], count: int) -> Tensor:
    s = torch.as_tensor(scales, dtype=torch.float64, device="cpu").detach()
    if s.shape != (count,) or not bool(torch.isfinite(s).all()) or bool((s <= 0).any()):
        raise ValueError(f"scales must be {count} finite positive numbers, one for each client.")
    return s


def _items(name: str, factor: Factors) -> list[Tensor]:
    if isinstance(factor, Tensor):
        if factor.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(factor.shape)}; stacked factors are 3-D.")
        return list(factor.unbind(0))
    return list(factor)


def _ranks_and_dtypes(A: Factors, B: Factors) -> tuple[tuple[int, ...], tuple[torch.dtype, torch.dtype]]:
    """The clients' ranks and the dtypes of their factors, after checking that they fit one another."""
    if isinstance(A, Tensor) and isinstance(B, Tensor) and A.ndim == B.ndim == 3 and len(A) == len(B) > 0:
        # A stack has one shape: checking every client costs as much as the arithmetic of a small layer.
        _check_shapes([A[0]], [B[0]])
        return (A.shape[1],) * len(A), (A.dtype, B.dtype)
    A_k, B_k = _items("A", A), _items("B", B)
    _check_shapes(A_k, B_k)
    return tuple(len(a) for a in A_k), (A_k[0].dtype, B_k[0].dtype)


def _check_shapes(A: list[Tensor], B: list[Tensor]) -> None:
    if not A or len(A) != len(B):
        raise ValueError(f"there are {len(A)} A and {len(B)} B; they must be equally many, at least one.")
    for k, (a, b) in enumerate(zip(A, B, strict=True)):
        if not (a.is_floating_point() and b.is_floating_point()):
            raise ValueError(f"client {k} sent {a.dtype} and {b.dtype}; LoRA factors must be floating point.")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] < 1:
            raise ValueError(
                f"client {k} has A {tuple(a.shape)} and B {tuple(b.shape)}; "
                "they must be (r, d_in) and (d_out, r)."
            )
        if a.shape[1] != A[0].shape[1] or b.shape[0] != B[0].shape[0]:
            raise ValueError(
                f"client {k} adapts a {b.shape[0]} x {a.shape[1]} layer and client 0 a "
                f"{B[0].shape[0]} x {A[0].shape[1]} one; all must adapt the same layer."
            )
        if (a.dtype, b.dtype) != (A[0].dtype, B[0].dtype):
            raise ValueError(f"client {k} sent {a.dtype}, {b.dtype}, client 0 {A[0].dtype}, {B[0].dtype}.")
