"""Settings of differential privacy: the clip, the noise, the budget and the mechanism."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from fedloom.core.settings_tree import ReadWith


class QuantileClip(BaseModel):
    """Adaptive clipping: the clip follows a quantile of the clients' norms (Andrew et al., NeurIPS 2021)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantile: float = Field(
        0.5, gt=0, lt=1, description="γ, the share of clients whose change is to stay whole; 0.5 = the median"
    )
    start: float = Field(0.1, gt=0, description="C of the first round")
    rate: float = Field(0.2, gt=0, le=2, description="η, the step of log C per round")
    noise: float = Field(
        2.0,
        gt=0.5,
        description="σ_b / z: noise on the number of clients below the clip, in multiples of noise_multiplier; the changes get "
        "1 / sqrt(1 - 1 / (4 noise^2)) times z for it",
    )


def _kind_of_clip(value: Any) -> str:
    """The tag of a clip, so that a mistake in a mapping is told as one of the mapping."""
    return "adaptive" if isinstance(value, Mapping | QuantileClip) else "fixed"


Clip = Annotated[
    Annotated[float, Field(gt=0), Tag("fixed")] | Annotated[QuantileClip, Tag("adaptive")],
    Discriminator(_kind_of_clip),
]


class DP(BaseModel):
    """Differential privacy for clients: clip each client's whole change, add Gaussian noise, stop at the budget."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip: Clip = Field(
        1.0,
        description="C, largest Euclidean norm of a client's change of all that it shares; or {quantile: 0.5, start: 0.1, ...}: "
        "it follows a quantile of the norms",
    )
    noise_multiplier: Annotated[float, Field(gt=0)] | Literal["calibrated"] = Field(
        1.0,
        description="z; the sum's noise has deviation z C per number; calibrated: the least z with which all rounds fit into "
        "epsilon",
    )
    mechanism: Literal["gaussian", "tree", "toeplitz"] = Field(
        "gaussian",
        description="gaussian: fresh noise in every round, clients drawn at random; tree, toeplitz: noise that later rounds take "
        "back in part, clients in turns, each once in 1 / cohort.fraction rounds",
    )
    restart: Annotated[int | None, ReadWith(".mechanism", unless=("gaussian",))] = Field(
        None, ge=1, description="rounds after which tree or toeplitz begins anew; none = never"
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="δ; well below one over the number of clients is usual"
    )
    epsilon: float | None = Field(
        None, gt=0, description="budget ε; the run ends before the round that would pass it"
    )
    accountant: Literal["rdp", "pld"] = Field(
        "rdp",
        description="rdp: Rényi, as most papers; pld: privacy loss distributions, tighter and slower",
    )
    seeded: bool = Field(
        False,
        description="draw the noise from the run's seed: repeatable, for studies; whoever knows the seed can remove it",
    )

    @model_validator(mode="after")
    def _calibrated_to(self) -> "DP":
        if self.noise_multiplier == "calibrated" and self.epsilon is None:
            raise ValueError("noise_multiplier: calibrated needs the epsilon that it is calibrated to")
        return self

    @property
    def multiplier(self) -> float:
        """z. Raises ValueError where it is not calibrated yet (`calibration.with_multiplier`)."""
        if isinstance(self.noise_multiplier, str):
            raise ValueError("the noise multiplier is not calibrated")
        return self.noise_multiplier

    @property
    def in_turns(self) -> bool:
        """Whether clients take part in turns, with correlated noise, and are not drawn."""
        return self.mechanism != "gaussian"
