"""FedEx-LoRA: average A and B, and add the residual of averaging to the frozen weights.

Paper: Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models", ACL 2025.
With R = sum p_k B_k A_k - B'A' the base becomes W0 + s R for every client, so that W0 + s R + s B'A' = W0 + s U.

Deliberate differences:
- R travels as factors of rank at most (K - 1) r, compressed by QR and SVD; the paper sends the dense matrix, which is cheaper
  only from K = d / (2 r) clients on. The ledger counts the factors; `fedloom methods --cost` shows the dense matrix's bytes.
- `residual_rank` keeps the strongest directions only, up to a byte budget; the aggregation is then not exact.
- The published code adds the residual transposed for some models, which square layers hide; here its shape is checked.
- The one frozen foundation is never edited: the sum of all R is state of its own, sent to clients that were absent, and written
  into the exported adapter as further ranks.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation import lora
from fedloom.core.payload import Scope
from fedloom.methods.base import merged_lora as merged
from fedloom.methods.base.combine import mean_of, pairs
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, LayerShape, State


class FedExLoRA(merged.MovesBase):
    """A' = sum p_k A_k, B' = sum p_k B_k, W0' = W0 + s (U - B'A')."""

    name: ClassVar[str] = "fedex-lora"
    title: ClassVar[str] = "FedEx-LoRA"
    paper: ClassVar[str] = "Singhal et al. (ACL 2025)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "products"
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    residual_rank: int | None = Field(
        None, ge=1, description="directions of the residual that are kept; none = all (K - 1) r, exact"
    )

    def round(self, state: State, ask: Ask) -> State:
        """Average the factors; the residual is merged into every client's base."""
        replies = ask("train", merged.send(state, ask.cohort, state.shared))
        weights = self.client_weights(replies)
        shared, changes = mean_of(replies, weights), {}
        for place, pair in pairs(replies, weights):
            A, B, residual = lora.fedex(pair.A, pair.B, pair.weights, residual_rank=self.residual_rank)
            shared[place + "lora_A"], shared[place + "lora_B"] = A, B
            changes[place] = residual
            del pair  # before the next layer is read
        return merged.extend(state.with_shared(shared), changes, replies)

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Down comes the residual, too: (K - 1) r directions of every layer, or the dense matrix."""
        factors = sum((clients - 1) * r * (d_in + d_out) for r, d_in, d_out in pairs)
        return shared, shared + factors, shared + sum(d_in * d_out for _, d_in, d_out in pairs)

    def product(self, after: State) -> Mapping[str, Tensor]:
        """The averaged pair and this round's residual, side by side."""
        tensors = dict(after.shared)
        for place, (B, A) in merged.newest(after).items():
            tensors[place + "lora_A"] = torch.cat([after.shared[place + "lora_A"], A])
            tensors[place + "lora_B"] = torch.cat([after.shared[place + "lora_B"], B], dim=1)
        return tensors
