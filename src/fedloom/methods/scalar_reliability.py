"""Scalar reliability: one trust weight for each client and group, where Fed-CMP's reconstruction has one for each direction.

Our baseline (docs/methods/fedma.md): w_k ~ p_k v_k^-gamma, with v_k the mean square of client k's change of a group minus the
mean change of the others. It separates the gain of weighting by direction from that of weighting at all.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.reliability import reliability
from fedloom.aggregation.stack import wide
from fedloom.core.payload import Payload, Scope, group_of
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State


class ScalarReliability(Method):
    """w' = sum w_k W_k, group by group."""

    name: ClassVar[str] = "scalar-reliability"
    title: ClassVar[str] = "scalar reliability"
    paper: ClassVar[str] = "our baseline"
    linear: ClassVar[bool] = False
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "individual"

    gamma: float = Field(1.0, ge=0, description="strength; 0 = FedAvg")
    floor: float = Field(1e-3, ge=0, description="part of the mean variance that is added to every variance")

    def round(self, state: State, ask: Ask) -> State:
        """Average every group over its holders, weighted by how near each is to the others."""
        replies = ask("train", Payload(state.shared))
        weights = self.client_weights(replies)
        combined: dict[str, Tensor] = {}
        held = [{group_of(n) for n in reply.payload.tensors} for reply in replies]
        for group in sorted(set().union(*held)):
            holders = [k for k, groups in enumerate(held) if group in groups]
            p = torch.tensor([weights[k] for k in holders], dtype=torch.float64)
            changes = [
                torch.cat(
                    [
                        (wide(t) - wide(state.shared[n])).flatten()
                        for n, t in sorted(replies[k].payload.tensors.items())
                        if group_of(n) == group
                    ]
                )[None]
                for k in holders
            ]
            rho = reliability(changes, p / p.sum(), gamma=self.gamma, floor=self.floor)[:, 0].tolist()
            chosen = [replies[k] for k in holders]
            combined |= mean_of(chosen, rho, lambda name, group=group: group_of(name) == group)  # type: ignore[misc]
        return state.with_shared(combined)
