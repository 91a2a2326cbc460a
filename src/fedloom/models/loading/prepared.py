"""The examples of samples: loaded where they are used if they come from files, else prepared at once."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from fedloom.data.sample import Sample
from fedloom.models.loading.examples import Examples, Part, from_files
from fedloom.models.loading.loader import Loader
from fedloom.models.loading.reading import Reading


class Prepares(Protocol):
    """A model that prepares samples."""

    def prepare(self, sample: Sample, client: str | None = None) -> Any:
        """See `Trainable.prepare`."""


@runtime_checkable
class ReadsFiles(Protocol):
    """A model whose preparation of samples splits into a costly part without its weights, and the rest."""

    loader: Loader

    @property
    def reading(self) -> Reading | None:
        """The costly part; None where it cannot leave this process."""

    def prepare(self, sample: Sample, client: str | None = None) -> Any:
        """See `Trainable.prepare`: `finish` of what `reading` gives."""

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> Any:
        """The example of a sample with these preprocessed inputs."""


def loaded(model: object, samples: Sequence[Sample], owner: Hashable) -> Examples | None:
    """The examples, none of them read yet; None where no sample comes from a file, or the model prepares all by itself.

    `owner`: their key in the memory of the model's loader, a client's name for its training samples.
    """
    if not isinstance(model, ReadsFiles) or not from_files(samples):
        return None
    return _loaded(model, samples, owner)


def prepared(model: Prepares, samples: Sequence[Sample], owner: Hashable) -> Sequence[Any]:
    """The examples: `loaded`, else a list."""
    found = loaded(model, samples, owner)
    return [model.prepare(s) for s in samples] if found is None else found


def prepared_like(
    model: Prepares, samples: Sequence[Sample], owner: Hashable, like: Sequence[Any]
) -> Sequence[Any]:
    """The examples of changed samples: loaded where those of the unchanged ones, `like`, are, else a list."""
    if isinstance(model, ReadsFiles) and isinstance(like, Examples | Part):
        found = _loaded(model, samples, owner)
        if found is not None:
            return found
    return [model.prepare(s) for s in samples]


def _loaded(model: ReadsFiles, samples: Sequence[Sample], owner: Hashable) -> Examples | None:
    reading = model.reading
    if reading is None:
        return None
    model.loader.use(reading)
    client = owner if isinstance(owner, str) else None

    def finish(sample: Sample, inputs: Mapping[str, Tensor] | None) -> Any:
        return model.prepare(sample, client) if inputs is None else model.finish(sample, inputs)

    return Examples(samples, finish, model.loader, owner)
