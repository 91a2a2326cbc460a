"""Settings of privacy: what the server may see of one client, and what the model may tell about one."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from fedloom.core.settings_tree import ReadWith
from fedloom.privacy.differential.settings import DP
from fedloom.privacy.robust.stage import RobustRule

__all__ = ["DP", "Privacy", "Secure"]


class Secure(BaseModel):
    """Secure aggregation: the server learns sums over clients and no client's update (`fedloom.privacy.secure.protocol`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(
        2 / 3,
        ge=0.5,
        le=1,
        description="share of the asked clients that must be left at every phase; always more than half",
    )
    least: int = Field(
        3, ge=2, description="no sum of fewer clients is opened, also of a group that few clients hold"
    )
    bits: Literal[32, 64] = Field(
        32, description="size of a masked number; 32: as many bytes as plain, 64: twice"
    )
    clip: float = Field(
        8.0, gt=0, description="largest change of one number that a client can send; larger ones are cut"
    )
    examples: Annotated[int, ReadWith("method.weights", ("examples",))] = Field(
        1000,
        ge=1,
        description="with method.weights=examples: number of examples above which a client's weight grows no more",
    )


class Privacy(BaseModel):
    """A run's promises to its clients."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secure: Secure | None = Field(None, description="secure aggregation; {} = with its defaults")
    dp: DP | None = Field(None, description="differential privacy; {} = with its defaults")
    robust: SerializeAsAny[RobustRule] | None = Field(
        None,
        description="robust combination between firewall and method; kind: norm_bound, median, trimmed_mean or multi_krum; "
        "none = the method's own weights alone",
    )

    @field_validator("robust", mode="wrap")
    @classmethod
    def _rule(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """A mapping to the rule that its `kind` names."""
        if not isinstance(value, Mapping):
            return handler(value)
        return RobustRule.registered(value).model_validate(value)

    @model_validator(mode="after")
    def _single_updates(self) -> "Privacy":
        if self.robust is not None and self.sums:
            other = "secure" if self.secure is not None else "dp"
            raise ValueError(
                f"robust compares single clients' updates, and {other} leaves the server nothing but sums; leave one of them out"
            )
        return self

    @property
    def sums(self) -> bool:
        """Whether a method gets sums over clients and no single replies."""
        return self.secure is not None or self.dp is not None
