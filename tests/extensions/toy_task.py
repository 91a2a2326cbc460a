"""A task of one's own, from its data to its answers: whether a number of dots is odd, by a small network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.data.sources.source import Features, Source
from fedloom.models.base import Trainable, means
from fedloom.tasks.base import Question, Setup, Snapshot, Task
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet

NAMES = ("even", "odd")


class Dots(Source):
    """Rows of four dots."""

    for_task: ClassVar[str] = "toy-parity"

    source: Literal["toy-dots"] = "toy-dots"
    clients: int = Field(2, ge=1, description="how many clients")

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """All sixteen rows for training and for the test."""
        rows = [_sample(f"{i:04b}") for i in range(16)]
        return [ClientData(f"dots-{k}", rows, rows) for k in range(self.clients)]


class Perceptron(Trainable):
    """Four inputs, one hidden layer, two outputs; everything is trained."""

    stackable = False

    def __init__(self, seed: int) -> None:
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        stream = torch_stream(seed, "perceptron")
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, std=0.5, generator=stream)
        super().__init__({f"net/{n}": p for n, p in self.net.named_parameters()}, {}, {})

    @property
    def root(self) -> nn.Module:
        """The network."""
        return self.net

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """One group for everybody."""
        return frozenset({"net"})

    def prepare(self, sample: Sample, client: str | None = None) -> tuple[Tensor, int]:
        """Inputs (4,) and the class's number."""
        dots = torch.tensor([float(c == "1") for c in sample.question])
        return dots, NAMES.index(sample.answer)

    def losses(
        self, examples: Sequence[Any], owners: Sequence[int], count: int, features: Any = None
    ) -> Tensor:
        """Mean cross entropy of each owner's examples."""
        labels = torch.tensor([label for _, label in examples])
        each = cross_entropy(self._logits(examples), labels, reduction="none")
        return means(each, torch.tensor(owners), count)

    def score(self, examples: Sequence[Any], features: Any = None) -> list[tuple[int, int]]:
        """(1, 1) for a right class, (1, 0) for a wrong one."""
        return [
            (1, int(NAMES[label] == name))
            for (_, label), name in zip(examples, self.generate(examples, 1), strict=True)
        ]

    def generate(self, examples: Sequence[Any], max_new_tokens: int, features: Any = None) -> list[str]:
        """The likeliest class's name."""
        return [NAMES[i] for i in self._logits(examples).argmax(-1).tolist()]

    def save_adapters(self, folder: Path) -> None:
        """One safetensors file, and the list that marks a finished model."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().contiguous() for n, p in self.tensors.items()}, folder / "net.safetensors")
        (folder / "fedloom.json").write_text("{}")

    def _logits(self, examples: Sequence[Any]) -> Tensor:
        return self.net(torch.stack([dots for dots, _ in examples]))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Parity(Task[Dots]):
    """Odd or even."""

    name: ClassVar[str] = "toy-parity"
    title: ClassVar[str] = "a counter of dots"
    headline: ClassVar[Mapping[str, str]] = {"global/text/accuracy": "parity"}

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> Perceptron:
        """A fresh network."""
        return Perceptron(setup.seed)

    def load(self, folder: Path, setup: Setup) -> Perceptron:
        """The trained network."""
        model = Perceptron(setup.seed)
        model.load(load_file(folder / "net.safetensors"))
        return model

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: Any = None,
        trigger: Any = None,
    ) -> "ParityEvaluator":
        """Accuracy."""
        return ParityEvaluator(model, TestSet.prepare(tested, model), setup.evaluation)

    def answer(self, model: Trainable, question: Question) -> str:
        """Odd or even. Raises ExperimentError for anything but four digits."""
        if question.text is None or len(question.text) != 4 or set(question.text) - {"0", "1"}:
            raise ExperimentError("give --question with four dots, such as 0110")
        return model.generate([model.prepare(_sample(question.text))], 1)[0]


@dataclass(frozen=True)
class ParityEvaluator:
    """Evaluates the network on all rows."""

    model: Trainable
    tests: TestSet
    settings: Evaluation

    def assess(self, snapshot: Snapshot) -> Assessment:
        """The common model on everybody's rows."""
        return snapshot.assess(self.model, self.tests, self.settings)

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """None."""
        return {}


def _sample(dots: str) -> Sample:
    return Sample(dots, {}, dots, NAMES[dots.count("1") % 2], {"labels": NAMES})
