"""Centralised: one model trained on all clients' data in one place. The upper bound, without privacy."""

from typing import ClassVar

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State


class Centralised(Method):
    """One client holds everything; its trained tensors are the model."""

    name: ClassVar[str] = "centralised"
    title: ClassVar[str] = "centralised"
    paper: ClassVar[str] = "upper bound"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    ignores: ClassVar[tuple[str, ...]] = ("method.weights",)
    combination: ClassVar[Combination] = "mean"
    pooled: ClassVar[bool] = True

    def round(self, state: State, ask: Ask) -> State:
        """One pass over the pooled data. The mean over one client is that client's model."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))
