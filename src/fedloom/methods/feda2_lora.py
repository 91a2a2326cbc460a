"""FedA²-LoRA: average A, then solve for the B that restores the mean of the products.

Paper: UniFLoW (ICML 2026), Eq. 9-13 and Algorithm 1. Line numbers below are Algorithm 1's.

Deliberate differences:
- U (Eq. 10) is never formed: U A'^T = sum p_k B_k (A_k A'^T) costs O(K r^2 d) instead of O(K r d^2).
- `mode`: Eq. 13 as printed is "strict". The default "centred" ridge pulls towards the averaged B instead of towards zero and
  is never worse than FedAvg for any ridge (specification fedlora, section 4); `method.mode=strict method.ridge=1.0` is the paper.
- B'A' is the projection of U on the row space of A', not U itself; the rest is the metric `restoration_error`.
- Only adapters that were trained this round are combined; an always-on ridge would shrink the untouched ones.
- The stage switch of lines 25-32 goes by local step (Eq. 7), and belongs to `training.schedule`, not to the method.
- Where the server sees sums alone (privacy.secure), the same solve takes two asks: methods/base/feda2_by_sums.py.
- VeRA, which the paper leaves undefined, is the row-wise least squares of specification fedlora 3.15.
"""

from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.methods.base.combine import combine_layers, combine_vectors, sort_directions
from fedloom.methods.base.feda2_by_sums import client_by_sums, solved_by_sums
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer
from fedloom.methods.fedavg_lora import DOWNLOAD_HELP, TAIL_HELP, Download, Tail


class FedA2LoRA(Method):
    """A' = sum p_k A_k; B' = argmin_B ||B A' - U||^2, regularised by `mode` and `ridge`."""

    name: ClassVar[str] = "feda2-lora"
    title: ClassVar[str] = "FedA²-LoRA"
    paper: ClassVar[str] = "UniFLoW (ICML 2026)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "solve"
    unequal_ranks: ClassVar[bool] = True
    both: ClassVar[bool] = True

    mode: Literal["strict", "always", "relative", "centred"] = Field(
        "centred",
        description="how the solve is regularised: strict is Eq. 13; centred is never worse than FedAvg",
    )
    ridge: float | None = Field(
        None, ge=0, description="λ; none = the mode's own (strict and always 1.0, relative and centred 0.01)"
    )
    tail: Annotated[Tail, ReadWith("cohort.ranks")] = Field("rescale", description=TAIL_HELP)
    download: Annotated[Download, ReadWith("cohort.ranks")] = Field("svd", description=DOWNLOAD_HELP)

    def round(self, state: State, ask: Ask) -> State:
        """Lines 3-19: clients train from (A, B); every pair is combined over the clients that trained it."""
        if ask.sums:
            from_sums = partial(lora.feda2_solve, mode=self.mode, ridge=self.ridge)
            return solved_by_sums(state, ask, from_sums, mean_of_b=self.mode == "centred")
        replies = ask("train", Payload(state.shared))  # lines 3-8
        weights = self.client_weights(replies)
        solve = partial(lora.feda2_layers, mode=self.mode, ridge=self.ridge)  # lines 9-18: Eq. 9-13
        combined = combine_layers(replies, weights, solve, like=state.shared, tail=self.tail)
        combined |= combine_vectors(replies, weights, ask.frozen, mode=self.mode, ridge=self.ridge)
        if ask.unequal and self.download == "svd":
            combined = sort_directions(combined)
        return state.with_shared(combined)  # line 19

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train and answer; or, where the server sees sums alone, answer its two asks."""
        return client_by_sums(self, request, payload, trainer) or super().client(request, payload, trainer)
