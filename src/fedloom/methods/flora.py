"""FLoRA: stack the clients' adapters, merge the stack into the base, and begin anew.

Paper: Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", NeurIPS 2024.
[p_1 s_1 B_1, ..., p_K s_K B_K] [A_1; ...; A_K] = sum p_k s_k B_k A_k exactly, whatever the ranks. Every client gets the stack.

Deliberate differences: weight and scale stand on one factor only (published code puts neither or both); the fresh A of a round
is drawn from the run's seed at every client, so that it does not travel; the merged stacks are state of their own, as in
FedEx-LoRA, and never edit the frozen foundation.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from fedloom.aggregation import lora
from fedloom.core.payload import Scope
from fedloom.methods.base import merged_lora as merged
from fedloom.methods.base.combine import mean_of, pairs
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, LayerShape, State, Trainer

_PAIR = ("lora_A", "lora_B")


class FLoRA(merged.MovesBase):
    """W0' = W0 + sum p_k s_k B_k A_k; then A fresh, B = 0."""

    name: ClassVar[str] = "flora"
    title: ClassVar[str] = "FLoRA"
    paper: ClassVar[str] = "Wang et al. (NeurIPS 2024)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "products"
    unequal_ranks: ClassVar[bool] = True
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    def round(self, state: State, ask: Ask) -> State:
        """Stack and merge; the server's pair stays untrained."""
        others = {n: t for n, t in state.shared.items() if not n.endswith(_PAIR)}
        replies = ask("train", merged.send(state, ask.cohort, others))
        weights = self.client_weights(replies)
        changes = {}
        for place, pair in pairs(replies, weights):
            A, B = lora.flora(pair.A, pair.B, pair.weights, scales=pair.scales)
            changes[place] = (B, A)
            del pair  # before the next layer is read
        shared = mean_of(replies, weights, lambda name: not name.endswith(_PAIR))
        return merged.extend(state.with_shared(shared), changes, replies)

    def fresh(self, trainer: Trainer) -> Mapping[str, Tensor]:
        """A fresh pair from the run's seed, the same at every client."""
        return trainer.fresh("flora", trainer.round)

    def began(self, before: State) -> Mapping[str, Tensor]:
        """All but the pairs, which are fresh."""
        return {n: t for n, t in before.shared.items() if not n.endswith(_PAIR)}

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Down comes the stack of all clients instead of one pair."""
        one = sum(r * (d_in + d_out) for r, d_in, d_out in pairs)
        dense = sum(d_in * d_out for _, d_in, d_out in pairs)
        return shared, shared - one + clients * one, shared - one + dense

    def product(self, after: State) -> Mapping[str, Tensor]:
        """This round's stack."""
        tensors: dict[str, Tensor] = {}
        for place, pair in merged.newest(after).items():
            tensors[place + "lora_B"], tensors[place + "lora_A"] = pair
        return tensors
