"""Settings of the round loop: the cohort, the local engine, and the run as a whole."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedloom.methods import METHODS, Method
from fedloom.models.precision import Precision
from fedloom.models.training.settings import Training
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
        False, description="ask everybody in round 1 whatever the share, as several released codes do"
    )
    quorum: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the asked clients whose updates must be usable, or the round changes nothing",
    )
    start: Literal["common", "own"] = Field(
        "common", description="the first A: the same at every client, or each draws its own"
    )
    ranks: dict[Literal["encoder", "llm", "body"], tuple[Annotated[int, Field(ge=1)], ...]] = Field(
        {},
        description="LoRA ranks of the clients in name order, repeating, such as {encoder: [8, 4]}; none = the model's",
    )
    alpha: Literal["scaled", "fixed"] = Field(
        "scaled",
        description="with `ranks`: alpha_k in proportion to the rank, so that all scales are equal, or the same alpha",
    )


class Engine(BaseModel):
    """The local engine: device, precision, cohort training and memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["local"] = Field("local", description="local: in this process")
    wire: bool = Field(False, description="send every payload through its bytes, as a deployment does")
    device: str = Field(
        "auto", description="auto | cpu | cuda | cuda:1 ...; auto takes a GPU where there is one"
    )
    dtype: Precision = Field(
        "float32",
        description="float32 | bfloat16, of frozen weights and of products; adapters, optimiser and server stay in float32",
    )
    compile: bool = Field(
        False,
        description="let torch.compile work on the blocks without adapters; pays on a GPU, where a run is long",
    )
    cohort: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="how many clients are trained together, as a batch dimension: auto | off | a number; "
        "results agree up to rounding",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; none = PyTorch's choice")
    memory: int = Field(
        4096,
        ge=0,
        description="MB for a round's uploads, again for prepared samples, and again for kept features; uploads and features "
        "beyond it lie in a file, samples beyond it are prepared again; changes no figure",
    )
    reuse: bool = Field(
        True,
        description="let an encoder that is not trained work once on each sample, and keep what it makes; results agree up "
        "to rounding",
    )


class RunSettings(BaseModel):
    """The part of an experiment that the round loop reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, description="the one seed; every random stream is named and derived from it")
    rounds: int = Field(4, ge=0, description="communication rounds; 0 evaluates the untrained model")
    method: Method
    training: Training = Training()
    cohort: Cohort = Cohort()
    engine: Engine = Engine()
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
        """The warm start's method, with this method's client weights, head, personal tensors and server optimizer."""
        method = self.method
        return METHODS[name](
            weights=method.weights, head=method.head, personal=method.personal, server=method.server
        )
