"""Settings of the round loop: the cohort, the local engine, and the run as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fedloom.core.settings_tree import ReadWith
from fedloom.methods import METHODS, Method
from fedloom.models.precision import Precision
from fedloom.models.training.settings import Training
from fedloom.models.weights import DeviceMap
from fedloom.privacy.firewall import Firewall
from fedloom.privacy.robust.attacks import Attack
from fedloom.privacy.settings import Privacy
from fedloom.tasks.evaluation import Evaluation


@dataclass(frozen=True)
class Round:
    """A round's place in the run: round `number` of 1..`rounds`, in the run with this seed."""

    number: int
    rounds: int
    seed: int


class Cohort(BaseModel):
    """Sampling of the clients of a round, and their first adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients drawn for a round")
    full_first_round: bool = Field(
        False, description="ask all clients in round 1, as several released codes do"
    )
    quorum: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least share of the asked clients with usable updates; below it the round changes nothing",
    )
    start: Literal["common", "own"] = Field(
        "common", description="common | own: the first A is the same at every client, or drawn by each client"
    )
    ranks: dict[Literal["encoder", "llm", "body"], tuple[Annotated[int, Field(ge=1)], ...]] = Field(
        {},
        description="LoRA ranks of the clients in name order, cyclically, such as {encoder: [8, 4]}; none = the model's",
    )
    alpha: Annotated[Literal["scaled", "fixed"], ReadWith(".ranks")] = Field(
        "scaled",
        description="with `ranks`: scaled: alpha_k proportional to the rank, so that all scales are equal; fixed: one alpha",
    )


class EngineSettings(BaseModel):
    """The engine of the clients' training: processes, device, precision, cohort training and memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["local", "ray"] = Field(
        "local", description="local | ray: train on this machine, or on a Ray cluster (extra fedloom[ray])"
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="processes that train cohorts of a round side by side, each with the foundation once: a number | auto (one "
        "per GPU; without one, as many as the cores have room for at `threads` each); none = this process trains all; changes no "
        "figure at the same `cohort` and `threads`",
    )
    address: Annotated[str | None, ReadWith(".name", ("ray",))] = Field(
        None,
        description="the Ray cluster: host:port | auto (the one that this machine belongs to); none = start one here",
    )
    cpus_per_worker: Annotated[float | None, ReadWith(".name", ("ray",))] = Field(
        None, gt=0, description="CPU cores that a worker reserves in the Ray cluster; none = `threads`"
    )
    gpus_per_worker: Annotated[float | None, ReadWith(".name", ("ray",))] = Field(
        None,
        ge=0,
        description="GPUs that a worker reserves in the Ray cluster; none = 1 where `device` is cuda, else 0",
    )

    wire: bool = Field(False, description="encode and decode every payload, as in a deployment")
    device: str = Field(
        "auto", description="auto | cpu | cuda | cuda:1 ...; auto takes a GPU if there is one"
    )
    dtype: Precision = Field(
        "float32",
        description="float32 | bfloat16 | auto, of frozen weights and matrix products; auto: that of each checkpoint; adapters, "
        "optimiser and server use float32",
    )
    device_map: DeviceMap | None = Field(
        None,
        description="auto | balanced | balanced_low_0 | sequential: spread the LLM over all GPUs by accelerate; its clients "
        "train one after another; none = one device",
    )
    compile: bool = Field(
        False,
        description="apply torch.compile to the blocks without adapters; worthwhile for long runs on a GPU",
    )
    checkpointing: bool = Field(
        False,
        description="compute activations again in the backward pass instead of keeping them: less memory, for a second "
        "forward pass; results agree up to rounding",
    )
    cohort: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="number of clients trained together, and of personal models evaluated together, as a batch dimension: "
        "auto | off | a number; "
        "results agree up to rounding",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; none = PyTorch's choice")
    memory: int = Field(
        4096,
        ge=0,
        description="MB each for a round's uploads, prepared samples and cached features; beyond it, uploads and features "
        "are kept in files, and samples are prepared again; changes no figure",
    )
    loaders: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="processes that decode and preprocess samples from files ahead of their use: auto (one per core but one, "
        "for 64 samples or more) | 0 (none) | a number; changes no figure",
    )
    cache: int = Field(
        4096,
        ge=0,
        description="MB each of preprocessed samples from files, and of features of a frozen encoder, that are kept on disk for "
        "later rounds and runs, in the folders `prepared` and `features` of the cache; 0 = none; changes no figure",
    )
    reuse: bool = Field(
        True,
        description="run an untrained encoder once on each sample, and cache its features; results agree up to rounding",
    )

    @field_validator("cohort", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """Read `off` as written: YAML takes it for false."""
        if value is True:
            raise ValueError("should be auto, off or a number of clients; on names none")
        return "off" if value is False else value

    @field_validator("workers", mode="before")
    @classmethod
    def _no_loaders(cls, value: Any) -> Any:
        """Refuse 0, which until 0.2 meant no process that decodes samples."""
        if value == 0 and not isinstance(value, bool):
            raise ValueError(
                "should be auto or a number from 1 on, or left out to train in one process; the processes that decode samples "
                "are engine.loaders"
            )
        return value

    @property
    def cohort_limit(self) -> int:
        """Most clients that share a batch: one for `off`, and as long as `auto` is not settled."""
        return self.cohort if isinstance(self.cohort, int) else 1

    @property
    def in_workers(self) -> bool:
        """Whether clients train in processes of their own."""
        return self.name != "local" or self.workers is not None


def engine_of_record(fields: Any) -> Any:
    """An engine's recorded fields by today's names: until 0.2 `loaders` were called `workers`."""
    if not isinstance(fields, Mapping) or "workers" not in fields or "loaders" in fields:
        return fields
    return {("loaders" if name == "workers" else name): value for name, value in fields.items()}


class RunSettings(BaseModel):
    """The part of an experiment that the round loop reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, description="the run's seed; every random stream is derived from it by name")
    rounds: int = Field(4, ge=0, description="communication rounds; 0 evaluates the untrained model")
    method: Method
    training: Training = Training()
    cohort: Cohort = Cohort()
    engine: EngineSettings = EngineSettings()
    firewall: Firewall = Firewall()
    privacy: Privacy = Privacy()
    attack: Attack | None = Field(
        None,
        description="a simulated attack, for studies only; kind: nan, inflate, sign_flip, scale, collude, label_flip or backdoor",
    )
    evaluation: Evaluation = Evaluation()

    def method_in(self, round: int) -> Method:
        """The method of a round: the warm start's during the first rounds."""
        warm = self.method.warm_start
        return (
            self.warm_start_method(warm.method) if warm is not None and round <= warm.rounds else self.method
        )

    def warm_start_method(self, name: str) -> Method:
        """The warm start's method, with the fields of this method that both have, such as weights, head, tail and download."""
        kind, method = METHODS[name], self.method
        known, own = kind.model_fields, type(method).model_fields
        common = [
            f for f in own if f in known and known[f].annotation == own[f].annotation and f != "warm_start"
        ]
        return kind(**{f: getattr(method, f) for f in common if f in method.model_fields_set})
