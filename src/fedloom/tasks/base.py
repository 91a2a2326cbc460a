"""A task: one learning problem, with its data, its model, its evaluation and its answers. One file each in this folder.

The round loop, clients, engines, deployment, report and commands know `Task`, `Trainable` and `Evaluator`, and no particular one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.data.sources.source import Source
from fedloom.methods import METHODS, Method, State
from fedloom.models.base import Trainable
from fedloom.models.lora.lora import LoRA
from fedloom.models.precision import Precision
from fedloom.models.settings import Foundation
from fedloom.tasks.evaluation import Assessment, ClientModel, Evaluation, TestSet

S = TypeVar("S", bound=Source)


@dataclass(frozen=True)
class Setup:
    """The parts of an experiment that a task reads beside its source."""

    foundation: Foundation
    method: Method
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False


@dataclass(frozen=True)
class Trigger:
    """A backdoor's trigger: the answer that a patch of this side (over the picture's height) is to call up."""

    answer: str
    patch: float


@dataclass(frozen=True)
class Question:
    """One question to a trained model: raw inputs by modality, and texts."""

    inputs: Mapping[str, Tensor]
    text: str | None = None
    pair: str | None = None
    max_new_tokens: int = 32


@dataclass(frozen=True)
class Snapshot:
    """The models of a run after round `number` (0: before training); `last` marks the run's last round.

    `common` holds the tensors of everybody's model, empty where the method has none. `own(names)` gives the models of those of
    these clients that have one of their own, each made when it is read; None means every client.
    """

    number: int
    last: bool
    generate: bool
    common: Mapping[str, Tensor]
    own: Callable[[Collection[str] | None], Mapping[str, ClientModel]]
    state: State
    folder: Path | None = None


class Evaluator(Protocol):
    """Measures a run's models on samples that no client trains on."""

    @property
    def tests(self) -> TestSet:
        """The test samples at hand; none where they stay at the sites."""

    def assess(self, snapshot: Snapshot) -> Assessment:
        """Named figures of a round, and the records behind them."""

    def controls(self, common: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Figures of the common model with its inputs destroyed; empty for a task without such controls."""


class ServerTools(Protocol):
    """The server's own models, which a family of methods works with."""

    def save(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Write what a user keeps below `folder`, with the trained `tensors` of the method's state."""


@dataclass(frozen=True)
class Task(ABC, Generic[S]):
    """Base of every task. `source` is where its samples come from."""

    source: S

    name: ClassVar[str]
    title: ClassVar[str]
    """The task in a sentence, after "trained"."""
    headline: ClassVar[Mapping[str, str]]
    """Figures of a table that names none, with their column's title; "" puts the figure's name in words."""
    answers_in_words: ClassVar[bool] = False
    """Whether the model generates text, so that a backdoor has an answer to call up."""
    has_benchmarks: ClassVar[bool] = False
    """Whether `benchmark` measures anything."""
    not_deployable: ClassVar[str | None] = None
    """Why the task cannot run between real silos; None where it can."""

    def clients(self, setup: Setup) -> list[ClientData]:
        """Loads, checks and deals the data; clients in name order. Raises ExperimentError."""
        return self.source.load(setup.seed)

    def adapters(self, foundation: Foundation) -> dict[str, LoRA]:
        """The LoRA shapes by part of the model; empty where the method says what is trained."""
        return {}

    @abstractmethod
    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> Trainable:
        """The trainable model for clients that hold these modalities, by client name. Raises ExperimentError."""

    @abstractmethod
    def load(self, folder: Path, setup: Setup) -> Trainable:
        """The trained model in `folder`, as `save_adapters` wrote it. Raises ExperimentError."""

    @abstractmethod
    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> Evaluator:
        """The evaluation on these clients' test samples."""

    @abstractmethod
    def answer(self, model: Trainable, question: Question) -> str:
        """One answer, for `fedloom ask`. Raises ExperimentError for a question that the model cannot read."""

    def tools(self, model: Trainable, holds: Mapping[str, Sequence[str]], setup: Setup) -> ServerTools | None:
        """The server's own models, where the method works with any."""
        return None

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """Why this method or evaluation does not go with the task, in one sentence, or None."""
        return needs_no_other_model(method) or needs_no_text_metrics(self.title, evaluation)

    def benchmark(self, model: Trainable | None, suites: Any) -> dict[str, float]:
        """Figures of public benchmarks, for `fedloom benchmark`. Raises ExperimentError for a task without any."""
        raise ExperimentError(
            f"the run trained {self.title}, and the benchmarks ask questions about pictures; `fedloom compare` shows its figures"
        )

    def described(self, client: ClientData) -> str:
        """More about a client's samples, for `fedloom data`; mostly nothing."""
        return ""

    def notes(self, setup: Setup) -> list[str]:
        """More about the data as a whole, for `fedloom data`."""
        return []


def needs_no_other_model(method: Method) -> str | None:
    """Why a method for CLIP or for clients' own models cannot adapt one common foundation, or None."""
    if method.attachment is not None:
        return f"method {method.name} trains a part of CLIP; set data.source: classes, or take another method"
    if method.public_items:
        return f"method {method.name} is for clients with models of their own; set data.source: labelled"
    return None


def needs_no_text_metrics(title: str, evaluation: Evaluation) -> str | None:
    """Why BERTScore and GPTScore mean nothing where answers are labels, or None."""
    for setting in ("bertscore", "gptscore"):
        if getattr(evaluation, setting) != "off":
            return f"evaluation.{setting} compares sentences, and {title} gives labels; use off"
    return None


def methods_where(wanted: Callable[[type[Method]], bool]) -> str:
    """The names of the methods of a kind, for a message."""
    return ", ".join(name for name, method in METHODS.items() if wanted(method))
