"""Settings of a deployment (the server's `deployment.yaml`, a site's `site.yaml`), and the digest of its experiment."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.validation import validated
from fedloom.deploy.addresses import Endpoint, Host, SiteName
from fedloom.deploy.demands import Demands
from fedloom.deploy.wire import ALWAYS
from fedloom.experiment.settings import Experiment
from fedloom.experiment.yaml_rows import read_yaml
from fedloom.federation.settings import EngineSettings, engine_of_record
from fedloom.privacy.compatibility import too_few

S = TypeVar("S", bound=BaseModel)

COMMON = "common"
"""The folder of common test pictures beside those of the sites (`data.sources.image_classes`)."""


class Deployment(BaseModel):
    """The server's side: its sites, address and timeouts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: tuple[SiteName, ...] = Field(min_length=1, description="the sites' names")
    host: Host = Field("localhost", description="the name under which the sites reach the server")
    bind: Host = Field(
        "127.0.0.1",
        description="the SuperLink's listening address; any other than the default exposes its control API",
    )
    port: int = Field(8000, ge=1, le=65534, description="the SuperLink's port")
    proxy_port: int = Field(443, ge=1, le=65535, description="the proxy's port, to which the sites connect")
    round_timeout: float = Field(
        3600.0,
        gt=0,
        description="seconds that a site has for one answer; then the round continues without it",
    )
    join_timeout: float = Field(
        600.0, gt=0, description="seconds to wait for all sites before the first round"
    )
    rejoin_timeout: float = Field(
        120.0,
        ge=0,
        description="seconds that a site may be gone, in a round or after the server's own restart, before the run "
        "continues without it",
    )
    direct: bool = Field(
        False,
        description="whether sites speak to the SuperLink itself, without the proxy: for one machine only",
    )
    poll: float = Field(0.5, gt=0, description="polling interval for answers, in seconds")
    version: str | None = Field(
        None, max_length=50, description="the version of fedloom that the folder is of"
    )

    @field_validator("sites")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("two sites have one name")
        seen: dict[str, str] = {}
        for name in value:
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise ValueError(f"{other} and {name} differ by case only; not every disk tells them apart")
        if COMMON in seen:
            raise ValueError(
                f"{seen[COMMON]!r} is where common test pictures lie; give the site another name"
            )
        return tuple(sorted(value))

    @field_validator("host")
    @classmethod
    def _reachable(cls, value: str) -> str:
        if value in ("0.0.0.0", "::"):  # noqa: S104 - refused
            raise ValueError(f"{value} stands for every address of a machine; name the one that sites reach")
        return value

    @model_validator(mode="after")
    def _ports(self) -> "Deployment":
        if not self.direct and self.proxy_port in (self.port, self.port + 1):
            raise ValueError(
                f"the proxy's port {self.proxy_port} is the SuperLink's, which takes {self.port} and {self.port + 1}"
            )
        return self

    @property
    def site_port(self) -> int:
        """The port to which the sites connect."""
        return self.port if self.direct else self.proxy_port


class Site(BaseModel):
    """A site's side: its name, server, data folder and permitted requests."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: SiteName = Field(description="the site's name")
    server: Endpoint = Field(description="host:port of the server's fleet API")
    sites: tuple[SiteName, ...] = Field(description="all sites, for unequal ranks")
    data: Path | None = Field(
        None,
        description="folder with the site's own data, instead of the experiment's data.path; none = generated data",
    )
    requests: tuple[str, ...] = Field(
        description="requests that the server may send to this site",
        validation_alias=AliasChoices("requests", "tasks"),  # tasks: in kits until 0.1
    )
    engine: EngineSettings = Field(EngineSettings(), description="device, threads and memory of this machine")
    version: str | None = Field(
        None, max_length=50, description="the version of fedloom that the folder is of"
    )
    demands: Demands = Field(
        Demands(), description="what the experiment and the server have to keep; otherwise the site refuses"
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _of_a_kit(cls, value: Any) -> Any:
        """The engine in a kit of an earlier version, by today's names."""
        return engine_of_record(value)

    @field_validator("engine")
    @classmethod
    def _one_client(cls, value: EngineSettings) -> EngineSettings:
        """Refuse worker processes, which a site with its one client has no use for."""
        if value.in_workers:
            raise ValueError(
                "name and workers train simulated clients side by side; leave them out at a site"
            )
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _a_folder(cls, value: Any) -> Any:
        """Refuse an empty name, which would mean the folder where the command is typed."""
        if isinstance(value, str) and not value.strip():
            raise ValueError(
                "an empty name is no folder; name the folder with this site's data, or leave data out"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _without_port(cls, value: Any) -> Any:
        """Drop `port`, of Flower's SuperNode, from kits until 0.2."""
        return {n: v for n, v in value.items() if n != "port"} if isinstance(value, dict) else value


def read_settings(kind: type[S], file: Path) -> S:
    """Read settings from a YAML file. Raises ExperimentError."""
    if not file.is_file():
        raise ExperimentError(f"there is no {file}; `fedloom deploy init` writes the folders of a deployment")
    return validated(kind, read_yaml(file), str(file))


def write_settings(settings: BaseModel, file: Path) -> None:
    """Write settings to a YAML file."""
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(file, text.encode())


def experiment_digest(experiment: Experiment) -> str:
    """SHA-256 of the experiment without engine and trackers, 64 hex digits: equal on every machine of a deployment."""
    fields: dict[str, Any] = experiment.as_dict()
    fields.pop("engine")
    fields.pop("track")
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def classes_digest(experiment: Experiment) -> str:
    """SHA-256 of the task's class names in order, 64 hex digits; empty for a task without. Raises ExperimentError."""
    names = experiment.task.class_names()
    return hashlib.sha256(json.dumps(names).encode()).hexdigest() if names else ""


def requests_of(experiment: Experiment) -> tuple[str, ...]:
    """The names of all requests to a site in this experiment."""
    if experiment.privacy.secure is not None:  # the phases wrap the method's own requests
        from fedloom.privacy.secure.messages import SIGNED_PHASES

        return tuple(sorted({*ALWAYS, *SIGNED_PHASES}))
    methods = {experiment.method_in(round) for round in (1, experiment.rounds)} | {experiment.method}
    return tuple(sorted({*ALWAYS, *(request for m in methods for request in m.requests)}))


def check_sites(experiment: Experiment, sites: Collection[str]) -> None:
    """Raise ExperimentError where these sites are too few for the experiment's secure sums."""
    if fault := too_few(experiment.privacy, dict.fromkeys(sites, ()), experiment.cohort.fraction):
        raise ExperimentError(fault.replace("clients", "sites"))


def check_deployable(experiment: Experiment) -> None:
    """Raise ExperimentError for an experiment that cannot run on separate sites."""
    if experiment.method.pooled:
        raise ExperimentError(
            f"method {experiment.method.name} pools all clients' data in one place; take a federated one"
        )
    if (reason := experiment.task.undeployable()) is not None:
        raise ExperimentError(reason)
    if experiment.engine.in_workers:
        raise ExperimentError(
            "engine.name and engine.workers train simulated clients side by side, and a site trains its own; leave them "
            "out between sites"
        )
    if experiment.attack is not None:
        raise ExperimentError(
            "attack simulates attackers, and a site trains on its own data; leave it out between sites"
        )
    if experiment.data.test_only:
        raise ExperimentError("data.test_only has no meaning for sites; leave such clients out")
    if getattr(experiment.method, "unseen", "clients") != "clients":
        raise ExperimentError(
            "method.unseen: the mean of the clients' own tensors cannot be had where they stay at the sites; use clients"
        )
