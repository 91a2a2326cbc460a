"""A source of one's own, for a task that exists: sums in words."""

from typing import ClassVar, Literal

from pydantic import Field

from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.data.sources.source import Features, Source


class Sums(Source):
    """Questions such as "one plus two"."""

    for_task: ClassVar[str] = "question-answering"

    source: Literal["toy-sums"] = "toy-sums"
    clients: int = Field(2, ge=1, description="how many clients")
    samples: int = Field(4, ge=1, description="training samples per client; as many are tested on")

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients sums-0, sums-1, and so on."""
        return [self._client(number, seed) for number in range(self.clients)]

    def _client(self, number: int, seed: int) -> ClientData:
        words = ("one", "two", "three", "four", "five", "six")
        draws = numpy_stream(seed, "sums", number).integers(0, 3, size=(2 * self.samples, 2)).tolist()
        samples = [
            Sample(f"sums-{number}/{i}", {}, f"{words[a]} plus {words[b]}", words[a + b + 1])
            for i, (a, b) in enumerate(draws)
        ]
        return ClientData(f"sums-{number}", samples[: self.samples], samples[self.samples :])
