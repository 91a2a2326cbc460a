"""Settings `data.partition`: partitions of pictures by class (`Partition`), and of samples of any task (`RowPartition`)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedloom.core.settings_tree import ReadWith
from fedloom.data.pictures.class_names import class_words


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


class ClassFolders(BaseModel):
    """One client for each folder of `data.path`: `<path>/<client>/<class>/<image>`, with classes that all clients agree on.

    `<path>/common/<class>/<image>` holds test pictures on which every client's model is evaluated, if there are any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["folder"] = "folder"
    base: tuple[str, ...] = Field(
        min_length=2, max_length=10_000, description="the classes that clients train on, in the labels' order"
    )
    novel: tuple[str, ...] = Field(
        (), max_length=10_000, description="classes that are tested alone, on pictures in <path>/common"
    )

    @field_validator("base", "novel")
    @classmethod
    def _words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _class_names(value)

    @model_validator(mode="after")
    def _once(self) -> "ClassFolders":
        names = (*self.base, *self.novel)
        if twice := [n for i, n in enumerate(names) if n in names[:i]]:
            raise ValueError(f"two classes are called {twice[0]!r}; name each once, in base or in novel")
        return self


Partition = Annotated[FewShot | LabelSkew | DomainShift | ClassFolders, Field(discriminator="kind")]
"""One of the partitions; `kind` discriminates."""


def _class_names(value: tuple[str, ...]) -> tuple[str, ...]:
    """Class names for a text encoder. Raises ValueError for one that is none."""
    if wrong := [n for n in value if not n.strip() or len(n) > 100 or not n.isprintable()]:
        raise ValueError(f"{wrong[0][:100]!r} is no class; a class has 1 to 100 printable characters")
    return tuple(class_words(name) for name in value)


class Column(BaseModel):
    """The natural partition: one client for each name in a column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["column"] = "column"
    over: str | None = Field(None, description="the column; none = that of data.columns.client, or guessed")


class Folders(BaseModel):
    """The natural partition of a folder: one client for each folder in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["folder"] = "folder"


class LabelledFolders(BaseModel):
    """One client for each folder of `data.path`, `<path>/<client>/metadata.jsonl`, and what all clients agree on.

    `<path>/common/metadata.jsonl` lists pictures by which the server's generator is judged, if there are any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["folder"] = "folder"
    classes: tuple[str, ...] = Field(
        min_length=2, max_length=10_000, description="the classes, in the labels' order"
    )
    holds: dict[str, Literal["image", "text", "audio"]] = Field(
        min_length=1, max_length=10_000, description="every client's modality, as {north: image, south: text}"
    )
    test_share: float = Field(
        0.2, gt=0, lt=1, description="share of each class that is held back where no line has a split"
    )

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = _class_names(value)
        if twice := [n for i, n in enumerate(names) if n in names[:i]]:
            raise ValueError(f"two classes are called {twice[0]!r}; name each once")
        return names


class Iid(BaseModel):
    """Samples at random, equally many for each client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["iid"] = "iid"


class Dirichlet(BaseModel):
    """Every label, or every value of a column, is split over the clients by a Dirichlet draw."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["dirichlet"] = "dirichlet"
    over: str | None = Field(None, description="the column whose values are split; none = the label")
    beta: float = Field(
        0.5, gt=0, description="Dirichlet parameter; the smaller, the fewer values a client holds"
    )
    least: int = Field(
        2, ge=1, description="fewest training samples of a client; those that share a file count as one"
    )


class Quantity(BaseModel):
    """Samples at random, and clients of different sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["quantity"] = "quantity"
    law: Literal["dirichlet", "power"] = Field(
        "dirichlet", description="the clients' sizes: dirichlet | power"
    )
    beta: Annotated[float, ReadWith(".law", ("dirichlet",))] = Field(
        0.5, gt=0, description="dirichlet: parameter of the sizes; the smaller, the more they differ"
    )
    exponent: Annotated[float, ReadWith(".law", ("power",))] = Field(
        1.0, gt=0, description="power: client k has a share of k^-exponent"
    )
    least: int = Field(2, ge=1, description="fewest training samples of a client")


class Domain(BaseModel):
    """Every client holds samples of one value of a column; `data.clients` is a multiple of the values' number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["domain"] = "domain"
    over: str | None = Field(None, description="the column; none = the folders of source folder")


class Modality(BaseModel):
    """Every client holds samples of one kind: pictures, sounds, both, or text alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["modality"] = "modality"


class RowFewShot(FewShot):
    """Disjoint labels, or values of a column, for each client, with a few training samples of each."""

    over: str | None = Field(None, description="the column whose values are dealt; none = the label")


RowPartition = Annotated[
    Column | Folders | Iid | Dirichlet | Quantity | Domain | Modality | RowFewShot,
    Field(discriminator="kind"),
]
"""One of the partitions of samples of any task; `kind` discriminates."""

PoolPartition = Annotated[
    Column | LabelledFolders | Iid | Dirichlet | Quantity | Domain | Modality | RowFewShot,
    Field(discriminator="kind"),
]
"""The same for labelled samples of one modality per client."""

OF_ONE_VALUE = (Column, Dirichlet, Domain, RowFewShot)
"""The kinds with a column, `over`."""
