"""Local only: every client trains on its own data and shares nothing. The lower bound that a federation must beat."""

from typing import ClassVar

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.method import Ask, Combination, Method, State


class LocalOnly(Method):
    """Everything is personal; nothing travels but the number of examples."""

    name: ClassVar[str] = "local-only"
    title: ClassVar[str] = "local only"
    paper: ClassVar[str] = "baseline"
    own_models: ClassVar[bool] = True
    shares: ClassVar[Scope] = Scope(personal=("*",))
    ignores: ClassVar[tuple[str, ...]] = ("method.weights", "method.server", "method.personal")
    combination: ClassVar[Combination] = "nothing"

    def round(self, state: State, ask: Ask) -> State:
        """Every client continues its own training."""
        ask("train", Payload())
        return state
