"""Feature cache: the outputs of a frozen prefix of the model, such as an encoder, are computed once per example and run.

The key is the version of the tensors that features depend on (`Trainable.feature_version`), the owner and the example's index, so
that a changed encoder never gets old features. Examples that are augmented anew each time must not be cached. Features of a
prefix that the run never trains may also be shared with other runs, see `shared_features`.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from fedloom.core.tensor_files import PREFIX, Stored, write_tensors
from fedloom.models.example_cache import nbytes
from fedloom.models.loading.examples import taken
from fedloom.models.shared_features import Make, SharedFeatures

CHUNK = 32
"""Examples of one owner whose features are computed together, whatever is cached: a resumed run rounds alike."""
VERSIONS = 8
"""Versions whose features are kept at the same time; the least recently used is evicted."""


class FeatureCache:
    """Keeps features, tensors or mappings of tensors on the CPU, up to `limit` bytes in memory.

    `constant`: the run never trains the tensors that features depend on. They are then computed in whole chunks, and those beyond
    the limit go to a temporary folder in `inside`, or the system's. Otherwise nothing goes to disk, and evaluation clears the
    store at its end, because the next round has another version. With `limit` 0 and not `constant` nothing is kept. `shared`:
    whole chunks on disk that other runs may have made; only with `constant`.
    """

    def __init__(
        self,
        limit: int = 0,
        inside: Path | None = None,
        *,
        constant: bool = False,
        shared: SharedFeatures | None = None,
    ) -> None:
        self.limit, self.inside, self.constant = limit, inside, constant
        self.shared = shared if constant else None
        self.made = 0
        """Number of examples whose features were computed, or read from other runs'."""
        self._versions: OrderedDict[bytes, _Version] = OrderedDict()

    @property
    def on(self) -> bool:
        """Whether anything can be kept."""
        return self.limit > 0 or self.constant

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(v.held for v in self._versions.values())

    def of(
        self, version: bytes, owner: Hashable, wanted: Sequence[int], examples: Sequence[Any], make: Make
    ) -> list[Any]:
        """Features of the `wanted` indices among an owner's examples; `make` computes those of the missing ones."""
        kept = self._version(version)
        missing = [i for i in wanted if (owner, i) not in kept.places]
        fresh: dict[int, Any] = {}
        for part in _chunks(missing, len(examples)) if self.constant else [missing] if missing else []:
            batch = taken(examples, part)
            made = make(batch) if self.shared is None else self.shared.of(version, batch, make)
            new = {i: _resting(f) for i, f in zip(part, made, strict=True)}
            self.made += len(new)
            self._keep(kept, {(owner, i): f for i, f in new.items() if not _empty(f)})
            fresh |= new
        return [fresh[i] if i in fresh else _read(kept.places[owner, i]) for i in wanted]

    def clear(self) -> None:
        """Keep nothing."""
        while self._versions:
            self._versions.popitem()[1].drop()

    def _version(self, version: bytes) -> "_Version":
        if version not in self._versions:
            self._versions[version] = _Version()
        self._versions.move_to_end(version)
        while len(self._versions) > VERSIONS:
            self._versions.popitem(last=False)[1].drop()
        return self._versions[version]

    def _keep(self, kept: "_Version", new: Mapping[Hashable, Any]) -> None:
        size = nbytes(new)
        while self.held + size > self.limit and len(self._versions) > 1:
            self._versions.popitem(last=False)[1].drop()
        if self.held + size <= self.limit:
            kept.places.update(new)
            kept.held += size
        elif self.constant and new:
            kept.places.update(kept.written(new, self.inside))


class _Version:
    """Features of one version by owner and index, in memory or in a file."""

    def __init__(self) -> None:
        self.places: dict[Hashable, Any] = {}
        self.held = 0
        self._folder: TemporaryDirectory[str] | None = None
        self._files = 0

    def written(self, new: Mapping[Hashable, Any], inside: Path | None) -> Mapping[Hashable, Any]:
        """The same features, written to a file; empty where no file can be written, since they can be computed again."""
        with suppress(OSError):
            if self._folder is None:
                if inside is not None:
                    inside.mkdir(parents=True, exist_ok=True)
                self._folder = TemporaryDirectory(prefix=PREFIX, dir=inside, ignore_cleanup_errors=True)
            self._files += 1
            named = {f"{i}/{n}": t for i, f in enumerate(new.values()) for n, t in _named(f).items()}
            stored = write_tensors(Path(self._folder.name) / f"{self._files:06d}", named)
            return {
                key: _Part(stored, f"{i}/", isinstance(f, Tensor)) for i, (key, f) in enumerate(new.items())
            }
        return {}

    def drop(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class _Part:
    """One example's features in a file."""

    def __init__(self, stored: Stored, prefix: str, single: bool) -> None:
        self.stored, self.prefix, self.single = stored, prefix, single

    def read(self) -> Any:
        tensors = {
            n.removeprefix(self.prefix): self.stored[n] for n in self.stored if n.startswith(self.prefix)
        }
        return tensors[""] if self.single else tensors


def _chunks(missing: Sequence[int], count: int) -> Iterator[Sequence[int]]:
    """The whole chunks that hold the missing indices."""
    for chunk in sorted({i // CHUNK for i in missing}):
        yield range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK))


def _read(place: Any) -> Any:
    return place.read() if isinstance(place, _Part) else place


def _named(feature: Any) -> Mapping[str, Tensor]:
    return {"": feature} if isinstance(feature, Tensor) else feature


def _empty(feature: Any) -> bool:
    return not isinstance(feature, Tensor) and not feature


def _resting(feature: Any) -> Any:
    """A copy on the CPU: a row of a batch would hold the whole batch."""
    if isinstance(feature, Tensor):
        return feature.detach().to("cpu", copy=True)
    return {name: _resting(tensor) for name, tensor in feature.items()}
