"""The `privacy` part of an experiment."""

from pydantic import BaseModel, ConfigDict, Field

from fedloom.privacy.robust import Robust


class Privacy(BaseModel):
    """What stands between the clients' replies and the method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    robust: Robust | None = Field(
        None,
        description="robust combination between firewall and method; kind: norm_bound, median, trimmed_mean or multi_krum; "
        "none = the method's own weights alone",
    )
