"""Settings of the trackers: `track: [tensorboard]`, or a mapping with the settings of each."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedloom.core.errors import ExperimentError

FEW = 10
"""Largest number of clients whose own figures a tracker on this machine gets, unless the settings say another one."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")


class TrackerSettings(BaseModel):
    """The settings that every tracker has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: ClassVar[tuple[str, ...]]
    """Modules that the tracker imports, the extra's own first."""

    clients: int | None = Field(
        None,
        ge=0,
        description="figures of single clients, under their names, in runs of at most so many clients; none = "
        f"{FEW} where the tracker stays on this machine, 0 where it sends elsewhere",
    )

    @property
    def here(self) -> bool:
        """Whether all of it stays on this machine."""
        return True

    @property
    def most_clients(self) -> int:
        """Largest number of clients whose own figures are tracked."""
        return self.clients if self.clients is not None else FEW if self.here else 0


class TensorBoardSettings(TrackerSettings):
    """TensorBoard: event files. `pip install 'fedloom[tensorboard]'`."""

    packages = ("tensorboard",)

    folder: str | None = Field(
        None,
        min_length=1,
        description="folder in which every run gets one of its own; none = `tensorboard` in the run's folder",
    )


class WandBSettings(TrackerSettings):
    """Weights & Biases, offline unless `mode: online`. `pip install 'fedloom[wandb]'`."""

    packages = ("wandb",)

    mode: Literal["offline", "online"] = Field(
        "offline", description="offline: files for `wandb sync`; online: the server that `wandb login` names"
    )
    project: str = Field("fedloom", min_length=1, description="W&B project")
    entity: str | None = Field(None, min_length=1, description="W&B user or team; none = the account's own")
    folder: str | None = Field(
        None, min_length=1, description="parent of the folder `wandb`; none = the run's folder"
    )

    @property
    def here(self) -> bool:
        """Whether it is offline."""
        return self.mode == "offline"


class MLflowSettings(TrackerSettings):
    """MLflow. `pip install 'fedloom[mlflow]'`."""

    packages = ("mlflow", "sqlalchemy", "alembic")

    uri: str | None = Field(
        None,
        min_length=1,
        description="tracking URI: sqlite:///runs/mlflow.db, or a server's http address; none = `mlflow.db` in the run's folder",
    )
    experiment: str | None = Field(
        None, min_length=1, description="MLflow experiment; none = the experiment's name"
    )

    @property
    def here(self) -> bool:
        """Whether the store is a file."""
        return self.uri is None or self.uri.startswith("sqlite:")

    @model_validator(mode="after")
    def _usable(self) -> "MLflowSettings":
        """Refuse MLflow's own file store, which it has given up, and a password, which the run's record would keep."""
        parts = urlsplit(self.uri or "sqlite:")
        kind = parts.scheme.partition("+")[0]
        if kind not in (*DATABASES, *SERVERS):
            raise ValueError(
                "uri should be a database or a server, such as sqlite:///runs/mlflow.db or http://localhost:5000; "
                "MLflow no longer writes folders of files"
            )
        if parts.password is not None or (kind in SERVERS and parts.username is not None):
            raise ValueError(
                "uri should hold no password, since the run's record keeps it; MLflow reads MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return self


class Track(BaseModel):
    """The trackers of a run, none by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensorboard: TensorBoardSettings | None = Field(None, description="TensorBoard's event files")
    wandb: WandBSettings | None = Field(None, description="Weights & Biases")
    mlflow: MLflowSettings | None = Field(None, description="MLflow")

    @classmethod
    def spelt(cls, value: Any) -> Any:
        """A name, or a list of names, as a mapping."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return {name: {} for name in value}
        return value

    @model_validator(mode="before")
    @classmethod
    def _spelt(cls, value: Any) -> Any:
        """Read names; refuse a tracker without a mapping, which could mean either its defaults or none of it."""
        spelt = cls.spelt(value)
        if isinstance(spelt, list | tuple):
            raise ValueError(
                "should be names, such as [tensorboard, mlflow], or a mapping, such as {mlflow: {uri: ...}}"
            )
        if not isinstance(spelt, Mapping):
            return spelt
        if unknown := [name for name in spelt if name not in cls.model_fields]:
            raise ValueError(f"there is no tracker {unknown[0]!r}; known are {', '.join(cls.model_fields)}")
        if empty := [name for name, settings in spelt.items() if settings is None]:
            raise ValueError(f"{empty[0]} is empty; write {{}} for its defaults, or leave it out")
        return spelt

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def chosen(self) -> dict[str, TrackerSettings]:
        """The trackers that are on, by name."""
        settings = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in settings.items() if value is not None}

    def check(self, *, has_folder: bool) -> None:
        """Raise ExperimentError for a tracker whose package is missing, or that would have no place to write to."""
        for name, settings in self.chosen().items():
            if any(not installed(module) for module in settings.packages):
                raise ExperimentError(
                    f"track: {name} needs a package that is not installed: pip install 'fedloom[{name}]'"
                )
        for name, place, given in (
            ("tensorboard", "folder", self.tensorboard and self.tensorboard.folder),
            ("wandb", "folder", self.wandb and self.wandb.folder),
            ("mlflow", "uri", self.mlflow and self.mlflow.uri),
        ):
            if not has_folder and given is None and getattr(self, name) is not None:
                raise ExperimentError(
                    f"track: a run without a folder gives {name} no place to write to; set track.{name}.{place}, or name a "
                    "folder for the run"
                )


def installed(module: str) -> bool:
    """Whether a module can be imported; a folder of its name in the working directory is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
