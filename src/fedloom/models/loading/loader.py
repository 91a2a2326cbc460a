"""Loads samples from files: from the cache on disk, by loader processes, or in this process, with the same bits."""

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import Any, Literal

from safetensors.torch import load
from torch import Tensor

from fedloom.core.tensor_files import with_checksum
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample
from fedloom.models.example_cache import ExampleCache
from fedloom.models.loading.input_cache import InputCache
from fedloom.models.loading.loader_pool import LoaderPool, cores, start_server
from fedloom.models.loading.reading import Reading, reading_key, sample_key

FEW = 64
"""Samples that `auto` reads without loaders, whose start takes some seconds."""

Inputs = dict[str, Tensor]


class Loader:
    """The ways in which one run reads samples from files.

    `loaders`: processes that read ahead, 0 for none, `auto` for one per core but one where more than a few samples are read.
    `cache`: bytes of preprocessed inputs on disk. `memory`: bytes of prepared examples in this process.
    """

    def __init__(self, loaders: int | Literal["auto"] = 0, cache: int = 0, memory: int = 2**30) -> None:
        self.disk = InputCache(cache)
        self.memory = ExampleCache(memory)
        self._wanted = loaders
        self._loaders: LoaderPool | None = None
        self._reading: Reading | None = None
        self._key = ""
        self._read = self._expected = 0
        self.reads_here = 0
        """Number of samples that were preprocessed in this process."""

    def close(self) -> None:
        """End the loader processes."""
        if self._loaders is not None:
            self._loaders.close()
            self._loaders = None

    def expect(self, samples: Iterable[Sample]) -> None:
        """Get ready for loaders, if these samples need any, so that they are up when the model is loaded."""
        files = (s for s in samples if isinstance(s.modalities, MediaFiles) and s.modalities)
        self._expected = sum(1 for _ in islice(files, FEW))
        if self._expected and self._count:
            start_server()

    def use(self, reading: Reading) -> None:
        """Read by these settings from now on."""
        if reading is not self._reading:
            self.close()
            self._reading, self._key = reading, reading_key(reading)

    def ahead(self, sample: Sample) -> "Future[bytes | None] | None":
        """The reading of a sample by a loader, in the future; None where it will be read in this process, or is cached."""
        loaders = self._pool()
        if loaders is None:
            return None
        key = self._sample_key(sample)
        if key is not None and self.disk.holds(key):
            return None
        return loaders.send(sample)

    def inputs(self, sample: Sample, sent: "Future[bytes | None] | None" = None) -> Inputs:
        """The preprocessed inputs of a sample; `sent` is its reading by a loader. Raises as the reading does."""
        if self._reading is None:
            raise RuntimeError("a loader needs a reading first")
        key = self._sample_key(sample)
        if sent is None and key is not None and (kept := self.disk.read(key)) is not None:
            return kept
        self._read += 1
        data = None if sent is None or self._loaders is None else self._loaders.result(sent)
        if data is not None:
            inputs = load(data)
        else:
            self.reads_here += 1
            inputs = self._reading(sample)
        if key is not None and self.disk.limit:
            self.disk.write(key, with_checksum(inputs) if data is None else data)
        return inputs

    def example(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The example of this key, from memory or from `make`."""
        return self.memory.of(key, make)

    @property
    def depth(self) -> int:
        """Samples that are read ahead of each client's use."""
        return 0 if self._pool() is None else max(32, 4 * self._count)

    @property
    def _count(self) -> int:
        if self._wanted != "auto":
            return self._wanted
        return cores() - 1 if max(self._read, self._expected) >= FEW else 0

    def _pool(self) -> LoaderPool | None:
        """The loaders; None for none, and after they died."""
        if self._loaders is None and self._reading is not None and (count := self._count):
            self._loaders = LoaderPool(count, self._reading)
        return None if self._loaders is None or self._loaders.lost else self._loaders

    def _sample_key(self, sample: Sample) -> str | None:
        if not self.disk.limit or self._reading is None:
            return None
        return sample_key(sample, self._reading, self._key)
