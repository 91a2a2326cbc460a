"""Settings `data.partition`: the three partitions of pFedMMA's experiments for image classification."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedloom.core.settings_tree import ReadWith


class FewShot(BaseModel):
    """Few shots of disjoint base classes per client; half of the classes are novel: no client trains on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["few-shot"] = "few-shot"
    shots: int = Field(16, ge=1, description="training pictures per class, drawn with the run's seed")
    balanced: bool = Field(
        False,
        description="deal the classes so that clients differ by one at most, instead of the published cut",
    )
    class_shuffle_seed: int = Field(
        2023, description="seed of the class order for dealing; independent of the run's seed"
    )


class LabelSkew(BaseModel):
    """All classes, split by Dirichlet draws: per class (labeldir), or coarse to fine (pachinko, CIFAR-100)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["labeldir", "pachinko"] = "labeldir"
    beta: float = Field(
        0.5, gt=0, description="Dirichlet parameter; the smaller, the fewer classes a client holds"
    )
    least: Annotated[int, ReadWith(".kind", ("labeldir",))] = Field(
        10,
        ge=1,
        description="labeldir: least number of training and of test pictures per client; the draw is repeated until it holds",
    )


class DomainShift(BaseModel):
    """Every client holds pictures of one domain; `data.clients` is a multiple of the domains' number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["domains"] = "domains"
    beta: float = Field(
        0.5, gt=0, description="Dirichlet parameter of the classes within a domain that has several clients"
    )
    least: int = Field(2, ge=1, description="least number of training and of test pictures per client")
    hold_out: str | None = Field(
        None, description="a domain without clients; every client's model is evaluated on its test pictures"
    )


Partition = Annotated[FewShot | LabelSkew | DomainShift, Field(discriminator="kind")]
"""One of the partitions; `kind` discriminates."""
