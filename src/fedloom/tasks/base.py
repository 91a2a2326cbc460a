"""The task interface: one learning problem with its data, model, evaluation and answers; one file per task in this folder.

The round loop, clients, engines, deployment, report and commands depend on `Task`, `Trainable` and `Evaluator` only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.data.sources.source import Source
from fedloom.methods import METHODS, Method, State
from fedloom.models.base import Trainable
from fedloom.models.lora.layers import LoRA
from fedloom.models.precision import Precision
from fedloom.models.settings import Foundation
from fedloom.models.training.settings import Training
from fedloom.models.weights import DeviceMap
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet, assess
from fedloom.tasks.personal_batches import ClientModel
from fedloom.tasks.site_figures import SampleFigures, SiteFigures
from fedloom.tasks.usage import tensors_code

S = TypeVar("S", bound=Source)
M = TypeVar("M", bound=Trainable)
READ_FOR_EVERY_TASK = (
    *(
        f"training.{name}"
        for name in (
            "epochs",
            "steps",
            "batch_size",
            "accumulate",
            "optimizer",
            "lr",
            "rates",
            "lr_schedule",
            "warmup",
        )
    ),
    *(f"training.{name}" for name in ("one_pass", "prox", "weight_decay", "momentum", "betas", "clip")),
    *(f"evaluation.{name}" for name in ("every", "generate", "controls", "clients", "updates", "samples")),
    *(f"cohort.{name}" for name in ("fraction", "full_first_round", "quorum")),
    *(
        f"engine.{name}"
        for name in ("wire", "device", "cohort", "threads", "memory", "reuse", "checkpointing")
    ),
    *(f"engine.{name}" for name in ("name", "workers", "address", "cpus_per_worker", "gpus_per_worker")),
)
"""Settings that loop, engine and local training read for every task."""
READ_AHEAD = ("engine.loaders", "engine.cache")
"""Settings that models read whose samples are pictures and sounds, where these are files."""
READ_BY_ASSESS = ("evaluation.batch_size", "evaluation.max_new_tokens", "evaluation.loss")
"""Settings that `Snapshot.assess` reads."""
READ_FOR_LORA = ("cohort.start", "cohort.ranks", "cohort.alpha", "cohort.ranks.*", "evaluation.diagnostics")
"""Settings that adapters with ranks read."""
READ_WITH_FOUNDATION = ("engine.dtype", "engine.compile")
"""Settings that a frozen foundation reads."""


@dataclass(frozen=True)
class Setup:
    """The settings of an experiment that a task reads, besides its source."""

    foundation: Foundation
    method: Method
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    checkpointing: bool = False
    device_map: DeviceMap | None = None

    def applied(self, model: M) -> M:
        """The model, compiled and checkpointed as the settings say. Raises ExperimentError for one that cannot checkpoint."""
        if self.compile:
            model.compile_frozen()
        if self.checkpointing:
            model.checkpoint()
        return model


@dataclass(frozen=True)
class Trigger:
    """A backdoor's trigger: the attacker's answer, and the patch's side as a share of the picture's height."""

    answer: str
    patch: float


@dataclass(frozen=True)
class Question:
    """A question to a trained model: raw inputs by modality, and texts."""

    inputs: Mapping[str, Tensor]
    """Raw inputs by modality, as in a `Sample`."""
    text: str | None = None
    """The question, or the text to classify."""
    pair: str | None = None
    """The second text of two."""
    max_new_tokens: int = 32
    """Length limit of a generated answer."""


@dataclass(frozen=True)
class Snapshot:
    """The models of a run after round `number` (0: before training); `last` marks the run's last round.

    `common`: tensors of the common model, empty where the method has none. `own(names)`: the personal models of these clients
    (None: all), built lazily; clients without one are left out. `cohort`: most of them that share a batch.
    """

    number: int
    last: bool
    generate: bool
    common: Mapping[str, Tensor]
    own: Callable[[Collection[str] | None], Mapping[str, ClientModel]]
    state: State
    folder: Path | None = None
    cohort: int = 1

    def assess(self, model: Trainable, tests: TestSet, settings: Evaluation) -> Assessment:
        """The common model on everybody's samples, and each client's own on its own; before round 1, the start model."""
        return assess(
            model,
            self.common or (model.start if self.number == 0 else {}),
            self.own(None if settings.clients is None else set(tests.of)),
            tests,
            settings,
            generate=self.generate,
            everywhere=self.last,
            cohort=self.cohort,
        )


@runtime_checkable
class Evaluator(Protocol):
    """Measures a run's models on samples that no client trains on."""

    @property
    def tests(self) -> TestSet:
        """The local test samples; none where they stay at the sites."""

    def assess(self, snapshot: Snapshot) -> Assessment:
        """A round's metrics and their records."""

    def controls(self, common: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Metrics of the common model with its inputs destroyed; empty for a task without such controls."""


class ServerTools(Protocol):
    """The server's own models, for methods that need them."""

    def save(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Write the models below `folder`, with the trained `tensors` of the method's state."""


@dataclass(frozen=True)
class Task(ABC, Generic[S]):
    """Base of every task; `source` provides its samples."""

    source: S
    """The data source of the experiment."""

    name: ClassVar[str]
    """Name in messages and in a source's `for_task`."""
    title: ClassVar[str]
    """The trained model in words; completes "the run trained"."""
    headline: ClassVar[Mapping[str, str]]
    """Default metrics of a table with their column titles; "" derives the title from the metric's name."""
    source_members: ClassVar[tuple[str, ...]] = ()
    """Members that a source for this task has beside `deal`."""
    answers_in_words: ClassVar[bool] = False
    """Whether the model generates text, which a backdoor needs."""
    has_benchmarks: ClassVar[bool] = False
    """Whether `benchmark` is implemented."""
    reads: ClassVar[tuple[str, ...]] = (
        *READ_FOR_EVERY_TASK,
        *READ_BY_ASSESS,
        *READ_WITH_FOUNDATION,
    )
    """Patterns of the settings of model, training, cohort, engine and evaluation that have an effect. Others are refused."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Patterns of a method's settings without effect on this task's model, such as method.head."""
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    """Parts of a `Question` that `answer` reads; `fedloom ask` refuses the others."""
    not_deployable: ClassVar[str | None] = None
    """The reason why the task cannot run between real silos, or None."""

    def clients(self, setup: Setup) -> list[ClientData]:
        """Load, check and partition the data; clients in name order. Raises ExperimentError."""
        return self.source.load(setup.seed)

    def adapters(self, foundation: Foundation) -> dict[str, LoRA]:
        """The LoRA shapes by part of the model; empty where the method defines the trained tensors."""
        return {}

    @abstractmethod
    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> Trainable:
        """The trainable model; `holds` maps each client to its modalities. Raises ExperimentError."""

    def model_at_site(self, client: str, holds: Mapping[str, Sequence[str]], setup: Setup) -> Trainable:
        """One client's part of `model(holds, setup)`, for the site where it is alone. Raises ExperimentError.

        `holds` maps every client that the site knows of. Default: the model of a run with this client only.
        """
        return self.model({client: holds[client]}, setup)

    @abstractmethod
    def load(self, folder: Path, setup: Setup) -> Trainable:
        """The trained model that `save_adapters` wrote to `folder`. Raises ExperimentError."""

    def bases(self, foundation: Foundation) -> dict[str, str]:
        """The frozen checkpoints, Hugging Face ids or folders, by the part that a merged model is stored in; "" for a whole one.

        Raises ExperimentError. Default: none, for a task whose models are never merged.
        """
        return {}

    def usage(self, foundation: Foundation, folder: Path) -> str:
        """Python code that loads an exported folder, for its README; run inside the folder."""
        return tensors_code(folder)

    @abstractmethod
    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> Evaluator:
        """The evaluator on these clients' test samples."""

    @abstractmethod
    def answer(self, model: Trainable, question: Question) -> str:
        """The answer to one question, for `fedloom ask`. Raises ExperimentError for a question that the model cannot read."""

    def answers(self, model: Trainable, questions: Sequence[Question]) -> list[str]:
        """The answers to several questions. Default: one after another."""
        return [self.answer(model, question) for question in questions]

    def tools(self, model: Trainable, holds: Mapping[str, Sequence[str]], setup: Setup) -> ServerTools | None:
        """The server's own models, or None for a method without any."""
        return None

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """The reason why this method or evaluation does not fit the task, in one sentence, or None."""
        return needs_no_other_model(method) or needs_no_text_metrics(self.title, evaluation)

    def keeps_features(self, method: Method, training: Training, rounds: int) -> bool:
        """Whether the model has a frozen prefix whose features a run keeps, and shares with others. Default: no."""
        return False

    def site_figures(self) -> SiteFigures:
        """The rules for figures that sites measure in a deployment. Default: metrics over test samples."""
        return SampleFigures()

    def server_evaluator(self, model: Trainable, setup: Setup, tools: ServerTools | None) -> Evaluator | None:
        """The evaluator of what a deployment's server can measure itself, without the sites' samples and personal models.

        Its metrics are `at_server` in `SiteFigures.combined`. Default: none.
        """
        return None

    def class_names(self) -> tuple[str, ...]:
        """The class names, in the labels' order, that all sites and the server have to find in their data. Default: none."""
        return ()

    def undeployable(self) -> str | None:
        """The reason why this experiment cannot run between real silos, or None. Default: `not_deployable`."""
        return self.not_deployable

    def benchmark(self, model: Trainable | None, suites: Any) -> dict[str, float]:
        """Metrics of public benchmarks, for `fedloom benchmark`. Raises ExperimentError for a task without benchmarks."""
        raise ExperimentError(
            f"the run trained {self.title}, and the benchmarks ask questions about pictures; `fedloom compare` shows its figures"
        )

    def doubts(self, model: Trainable, clients: Sequence[ClientData]) -> list[str]:
        """Clauses on why the model may not suit the clients' training data, for the status. Default: none."""
        return []

    def described(self, client: ClientData) -> str:
        """Details of a client's samples, for `fedloom data`. Default: none."""
        return ""

    def notes(self, setup: Setup) -> list[str]:
        """Notes on the whole data set, for `fedloom data`. Default: none."""
        return []


def needs_no_other_model(method: Method) -> str | None:
    """The refusal of a method for CLIP or for clients' own models, or None."""
    if method.clip_adapter is not None:
        return f"method {method.name} trains a part of CLIP; set data.source: classes, or take another method"
    if method.public_items:
        return f"method {method.name} is for clients with models of their own; set data.source: labelled"
    return None


def needs_no_text_metrics(title: str, evaluation: Evaluation) -> str | None:
    """The refusal of BERTScore and GPTScore for answers that are labels, or None."""
    for setting in ("bertscore", "gptscore"):
        if getattr(evaluation, setting) != "off":
            return f"evaluation.{setting} compares sentences, and {title} gives labels; use off"
    return None


def methods_where(condition: Callable[[type[Method]], bool]) -> str:
    """The names of the methods that meet `condition`, for a message."""
    return ", ".join(name for name, method in METHODS.items() if condition(method))
