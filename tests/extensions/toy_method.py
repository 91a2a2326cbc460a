"""A method of one's own: the coordinate mean, moved half of the way."""

from typing import ClassVar

from pydantic import Field

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State


class HalfWay(Method):
    """w' = w + step (mean of w_k - w)."""

    name: ClassVar[str] = "toy-half-way"
    title: ClassVar[str] = "Half way"
    paper: ClassVar[str] = "none"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "mean"

    step: float = Field(0.5, gt=0, le=1, description="share of the way to the clients' mean")

    def round(self, state: State, ask: Ask) -> State:
        """Train from w; move a part of the way to the mean."""
        replies = ask("train", Payload(state.shared))
        mean = mean_of(replies, self.client_weights(replies))
        return state.with_shared({n: state.shared[n].lerp(t, self.step) for n, t in mean.items()})
