"""Features of frozen prefixes on disk, shared by the runs of one user, such as the rows of a table.

A file holds the features of one whole chunk of examples, because a product rounds differently in another batch. Its name is a
hash of all that they depend on: frozen weights, trained tensors as loaded, preprocessed inputs, settings, libraries, threads
and device. So a read feature has the bits of one computed anew.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.tensor_files import bytes_of, plain_tensors, with_checksum
from fedloom.data.media.accepted import cache_folder
from fedloom.data.media.extra import versions
from fedloom.models.loading.input_cache import InputCache

FORMAT = 1
"""Number of the code that makes features; a change of its results counts it up, so that older files are not used."""
FOLDER = "features"
WORTH = 0.5
"""Seconds that a chunk must have taken to be kept: those of a tiny model are made again as fast as read."""

Make = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Prefix:
    """The frozen part of a model that `Trainable.features` runs."""

    modules: Sequence[nn.Module]
    """The modules whose weights it reads."""
    settings: object
    """All else that decides its results for given inputs, by its `repr`."""
    inputs: Callable[[Any], Mapping[str, Tensor]]
    """The tensors of an example that it reads."""


class SharedFeatures:
    """Features of whole chunks in `features/` of the cache, up to `limit` bytes; the least recently read are removed first."""

    def __init__(self, prefix: Prefix, limit: int, trained: Sequence[Tensor]) -> None:
        """`trained`: tensors in the prefix's modules whose values a version tells, and not the weights' hash."""
        self.cache = InputCache(limit, cache_folder() / FOLDER)
        self.prefix = prefix
        self._trained = {id(t) for t in trained}

    def of(self, version: bytes, examples: Sequence[Any], make: Make) -> Sequence[Any]:
        """The features of a chunk: read, or made and kept."""
        key = self._key(version, examples)
        kept = self.cache.read(key)
        if kept is not None:
            return _unpacked(kept, len(examples))
        began = time.perf_counter()
        features = make(examples)
        if time.perf_counter() - began >= WORTH and (tensors := _packed(features)):
            self.cache.write(key, with_checksum(tensors))
        return features

    def _key(self, version: bytes, examples: Sequence[Any]) -> str:
        digest = hashlib.sha256(self._base + version)
        for example in examples:
            digest.update(b"\0example\0")
            _hash_tensors(digest, self.prefix.inputs(example))
        return digest.hexdigest()

    @cached_property
    def _base(self) -> bytes:
        """A hash of weights, settings, libraries and machine."""
        weights: dict[str, Tensor] = {}
        described = []
        for i, module in enumerate(self.prefix.modules):
            own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            weights |= {f"{i}.{n}": t for n, t in own.items() if id(t) not in self._trained}
            configs = {id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None}
            described.append((repr(module), [_described(c) for c in configs.values()]))
        tensors = plain_tensors(weights)
        devices = sorted({t.device.type for t in tensors.values()})
        machine = (
            [torch.cuda.get_device_name(d) for d in range(torch.cuda.device_count())]
            if "cuda" in devices
            else [],
            torch.backends.cpu.get_cpu_capability(),
            torch.__config__.show(),
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
        )
        code = (FORMAT, torch.__version__, *versions(("fedloom", "transformers", "peft")))
        digest = hashlib.sha256(repr((described, self.prefix.settings, devices, machine, code)).encode())
        _hash_tensors(digest, tensors)
        return digest.digest()


def _described(config: Any) -> tuple[str, str]:
    """A module's configuration, and its attention kernel, which transformers leaves out of it."""
    text = config.to_json_string() if hasattr(config, "to_json_string") else repr(config)
    return text, str(getattr(config, "_attn_implementation", None))


def _hash_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))


def _packed(features: Sequence[Any]) -> dict[str, Tensor]:
    """Tensors `<i>/<name>` of all features; a single tensor's name is empty."""
    named = [{"": f} if isinstance(f, Tensor) else f for f in features]
    return {f"{i}/{n}": t for i, own in enumerate(named) for n, t in own.items()}


def _unpacked(tensors: Mapping[str, Tensor], count: int) -> list[Any]:
    """Inverse of `_packed`."""
    features: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        i, own = name.split("/", 1)
        features[int(i)][own] = tensor
    return [f.get("", f) for f in features]
