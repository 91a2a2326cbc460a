"""The server's optimiser step after any method's aggregation: momentum or Adam on the round's change."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedloom.aggregation import server
from fedloom.core.settings_tree import ReadWith


class ServerStep(BaseModel):
    """FedAvgM's or FedAdam's step (Hsu et al., 2019; Reddi et al., 2021) for any method; its state is in State.tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["avgm", "adam"] = Field("avgm", description="avgm: momentum; adam: adaptive")
    lr: float = Field(1.0, gt=0, description="the server's rate; 1 moves by the whole change")
    beta: float = Field(
        0.9, ge=0, lt=1, description="share of the last change (avgm) or first moment (adam) that is kept"
    )
    beta2: Annotated[float, ReadWith(".name", ("adam",))] = Field(
        0.99, ge=0, lt=1, description="adam: share of the second moment that is kept"
    )
    tau: Annotated[float, ReadWith(".name", ("adam",))] = Field(
        1e-3, gt=0, description="adam: added to the root of the second moment"
    )

    def move(
        self, old: Mapping[str, Tensor], new: Mapping[str, Tensor], kept: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The moved tensors and the optimiser's state; see `aggregation.server`."""
        if self.name == "avgm":
            return server.momentum(old, new, kept, self.beta, self.lr)
        return server.adam(old, new, kept, self.lr, self.beta, self.beta2, self.tau)
