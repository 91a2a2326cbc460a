"""FedAvg-LoRA, also called FedIT: average A and B separately.

Paper: Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", 2023; UniFLoW Eq. 8.
The average of products is not the product of averages: U - B'A' = sum p_k (B_k - B')(A_k - A') is lost
(specification fedlora, identity 2); its size is the metric `restoration_error`.

Deliberate differences: weights are uniform by default (the paper's code: n_k / n, one word away); each tensor is averaged
over the clients that trained it, so that clients without a modality change nothing of its encoder. Unequal ranks are padded
with zeros (UniFLoW E.4); `tail` and `download` correct the effect of padding on the product, and `tail=pad download=index` is the
paper's. With VeRA the two vectors are averaged.
"""

from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.methods.base.combine import combine_pairs, sort_directions
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State

Tail = Literal["rescale", "pad", "keep"]
Download = Literal["svd", "index"]
TAIL_HELP = "unequal ranks: rescale rows that few clients hold, pad them with zeros (the paper), or keep the holders' mean"
DOWNLOAD_HELP = (
    "unequal ranks: what a small client takes: the strongest directions, or the first by index (the paper)"
)


class FedAvgLoRA(Method):
    """A' = sum p_k A_k, B' = sum p_k B_k."""

    name: ClassVar[str] = "fedavg-lora"
    title: ClassVar[str] = "FedAvg-LoRA"
    paper: ClassVar[str] = "FedIT (Zhang et al., 2023)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "mean"
    unequal_ranks: ClassVar[bool] = True

    tail: Annotated[Tail, ReadWith("cohort.ranks")] = Field("rescale", description=TAIL_HELP)
    download: Annotated[Download, ReadWith("cohort.ranks")] = Field("svd", description=DOWNLOAD_HELP)

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train from (A, B); average."""
        replies = ask("train", Payload(state.shared))
        mean = partial(lora.fedavg, tail=self.tail)
        combined = combine_pairs(replies, self.client_weights(replies), mean, like=state.shared)
        if ask.unequal and self.download == "svd":
            combined = sort_directions(combined)
        return state.with_shared(combined)
