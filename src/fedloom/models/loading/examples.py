"""Prepared samples of one client or test set, loaded where they are used, the next ones ahead."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample
from fedloom.models.loading.loader import Loader

Finish = Callable[[Sample, Mapping[str, Tensor] | None], Any]
"""The example of a sample and its preprocessed inputs; of one whose media are no files without them."""


class Examples(Sequence[Any]):
    """The examples of `samples` in their order; `owner` is their key in the loader's memory."""

    def __init__(self, samples: Sequence[Sample], finish: Finish, loader: Loader, owner: Hashable) -> None:
        self.samples, self.owner = samples, owner
        self._finish, self._loader = finish, loader
        self._sent: dict[int, Future[bytes | None]] = {}
        self._next: Iterator[int] | None = None
        self._cut: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.take(range(len(self))[place])
        return self.take([range(len(self))[place]])[0]

    def follow(self, order: Iterable[int]) -> None:
        """The order in which the examples will be used, as far as it is known; without one, each place's next ones follow."""
        self._next = iter(order)
        for sent in self._sent.values():
            sent.cancel()
        self._sent.clear()

    def take(self, places: Sequence[int]) -> list[Any]:
        """The examples at these places, read side by side."""
        missing = [i for i in places if (self.owner, i) not in self._loader.memory]
        for i in missing:
            self._send(i)
        if missing:
            self._look_ahead(max(places), sum(i in self._sent for i in places))
        return [self._loader.example((self.owner, i), partial(self._made, i)) for i in places]

    def cut(self, place: int) -> bool:
        """Whether the sample was cut to fit."""
        if place not in self._cut:
            self.take([place])
        return self._cut[place]

    def _made(self, i: int) -> Any:
        sample = self.samples[i]
        sent = self._sent.pop(i, None)
        files = isinstance(sample.modalities, MediaFiles)
        example = self._finish(sample, self._loader.inputs(sample, sent) if files else None)
        self._cut[i] = was_cut(example)
        return example

    def _send(self, i: int) -> None:
        if i not in self._sent and (self.owner, i) not in self._loader.memory:
            sent = self._loader.ahead(self.samples[i])
            if sent is not None:
                self._sent[i] = sent

    def _look_ahead(self, last: int, due: int) -> None:
        """Send the ones after `last`; `due` of those sent are used now, and so are not ahead."""
        room = max(self._loader.depth - (len(self._sent) - due), 0)
        order = range(last + 1, len(self)) if self._next is None else self._next
        for i in islice(order, room):
            self._send(i)


class Part(Sequence[Any]):
    """Some places of other examples."""

    def __init__(self, whole: Examples, places: Sequence[int]) -> None:
        self.whole, self.places = whole, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        found = self.places[place]
        return self.whole.take(found) if isinstance(place, slice) else self.whole[found]


def part_of(examples: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    """The examples at these places, not read before they are used if `examples` are loaded."""
    if isinstance(examples, Part):
        return Part(examples.whole, [examples.places[i] for i in places])
    return Part(examples, places) if isinstance(examples, Examples) else [examples[i] for i in places]


def taken(examples: Sequence[Any], places: Sequence[int]) -> list[Any]:
    """The examples at these places."""
    return examples.take(places) if isinstance(examples, Examples) else [examples[i] for i in places]


def follow(examples: Sequence[Any], order: Iterable[int]) -> None:
    """Tell examples that are loaded ahead the order in which they will be used."""
    if isinstance(examples, Examples):
        examples.follow(order)


def is_cut(examples: Sequence[Any], place: int) -> bool:
    """Whether a sample was cut to fit; a sample that was prepared before is not read again."""
    if isinstance(examples, Examples):
        return examples.cut(place)
    if isinstance(examples, Part):
        return examples.whole.cut(examples.places[place])
    return was_cut(examples[place])


def was_cut(example: Any) -> bool:
    """Whether a prepared sample lost text or input to the model's limits."""
    return bool(getattr(example, "truncated", False))


def from_files(samples: Sequence[Sample]) -> bool:
    """Whether any sample's media are files."""
    return any(isinstance(s.modalities, MediaFiles) and s.modalities for s in samples)
