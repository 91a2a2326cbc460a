"""Base of the methods on CLIP: weights by examples, and a CLIP adapter that describes the trained part."""

from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Method, State

CONTEXT = "prompt/context"
TEMPLATE = Field(
    "a photo of a {}.", pattern=r"^[^{}]*\{\}[^{}]*$", description="the fixed text of a class; {} is its name"
)
LENGTH = Field(16, ge=1, description="vectors of the learned context")


class CLIPMethod(Method):
    """Base of the methods that train parts of a CLIP model; most add fields, a scope and a CLIP adapter."""

    vera: ClassVar[bool] = False

    weights: Literal["uniform", "examples"] = Field(
        "examples", description="clients' weights: p_i = n_i / sum of n_j, or equal"
    )

    def check(self, kinds: Collection[str], unequal: bool, start: Literal["common", "own"]) -> str | None:
        """All clients begin from one common draw."""
        if start == "own":
            return f"{self.name} starts all clients from one common draw; set cohort.start: common"
        return None

    def round(self, state: State, ask: Ask) -> State:
        """Clients train from the shared tensors and their own; the shared ones are averaged with p_i."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The shared tensors, where nothing is personal; else there is no global model."""
        return {} if self.scope.personal else state.shared
