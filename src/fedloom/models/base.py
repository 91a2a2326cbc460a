"""The trainable model: one frozen foundation plus named adapters, shared by all clients of a process."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.core.tensor_files import bytes_of
from fedloom.data.sample import Sample
from fedloom.models.asking import Asked
from fedloom.models.batch_rows import RowMap
from fedloom.models.checkpointing import Replay, enable_checkpointing
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.loading.loader import Loader
from fedloom.models.lora.layers import frozen_pairs
from fedloom.models.lora.merged import MergedChanges
from fedloom.models.parts import part_of
from fedloom.models.precision import compile_frozen, settle
from fedloom.models.shared_features import Prefix, SharedFeatures

PROMPT_STATES = "anchors/prompts"
"""Personal tensor (n, d): states of some of the client's prompts, for FedDPA's mixing weights."""


@runtime_checkable
class HasPromptStates(Protocol):
    """A model with prompt states, as FedDPA-LoRA needs."""

    def prompt_states(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> Tensor:
        """(B, d): the frozen model's last hidden state of each example's prompt, adapters disabled."""


@runtime_checkable
class ReadsWords(Protocol):
    """A model whose tokenizer may not know the words of the data."""

    def unread_share(self, texts: Collection[str]) -> float:
        """Share of the texts' words that the tokenizer does not know."""


class Trainable(Asked, ABC):
    """A foundation and its adapters: the model interface of clients, engines and the federation.

    Subclasses prepare samples, compute losses and generate answers; this class manages the trainable tensors. `tensors` maps
    payload names `<group>/<place>` to parameters, `start` maps them to their values before round 1, `layers` maps places to
    PEFT's layers, and `scales` maps groups to their LoRA scale s.
    """

    stackable: bool = True
    """Whether clients with equal trained tensors can train as one cohort; needs `rows`."""
    row_wise: Collection[nn.Module] = ()
    """Trained modules, beside linear layers, that compute each row of their one input by itself, such as a projector's norm."""
    one_model: bool = True
    """Whether the shared tensors form one common model; False if each client has an architecture of its own."""

    def __init__(
        self,
        tensors: Mapping[str, nn.Parameter],
        layers: Mapping[str, Any],
        scales: Mapping[str, float],
    ) -> None:
        self.tensors: dict[str, nn.Parameter] = {name: tensors[name] for name in sorted(tensors)}
        self.start: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.tensors.items()}
        self.layers = dict(layers)
        self.scales = dict(scales)
        self.notes: list[str] = []
        """Sentences about how the model was put together, for the run's start and report."""
        self.doubts: list[str] = []
        """Clauses on why the model may not suit the data, for the run's status."""
        self.merged: dict[str, Tensor] = {}
        self.own_prompts: Tensor | None = None
        self.store = FeatureCache()
        self.loader = Loader()
        """The ways in which samples from files are read."""
        self.precision = torch.float32
        self.compiled = False
        self.replay: Replay = nullcontext
        """Gives the context of a checkpointed block's second forward pass; a cohort has its own."""
        self.owners: Sequence[int] = ()
        """The stacked client of each example of the batch; empty where all have the loaded tensors."""
        self._changes = MergedChanges(self.layers, self.scales)
        self._ratios: Mapping[str, float] = {}
        self._second = False
        self.rest()

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], ratios: Mapping[str, float] | None = None) -> None:
        """Set every tensor to its value in `tensors`, else to its start value, so that nothing of the last client remains.

        A factor of lower rank than the model's is padded with zeros, which stay zero in training if both factors have them.
        `<place>.merged_A` (q, d_in) and `merged_B` (d_out, q) add s B A to the frozen weight of that place until the next
        `load` (see `MergedChanges`).

        `ratios` maps a group to s_k / s, where a client's scale differs from the model's. With a second adapter in
        `tensors` both have weight 1; with prompt states, too, they are mixed (FedDPA). Raises KeyError for an unknown name.
        """
        merged = {n: t for n, t in tensors.items() if n.endswith((".merged_A", ".merged_B"))}
        known = {PROMPT_STATES, *self.tensors, *(f"{p}.merged_{f}" for p in self.layers for f in "AB")}
        if unknown := sorted(set(tensors) - known):
            raise KeyError(f"the model has no tensor {unknown[0]}")
        for name, parameter in self.tensors.items():
            parameter.copy_(padded(tensors.get(name, self.start[name]), parameter))
        self.own_prompts = tensors.get(PROMPT_STATES)
        self._changes.put(merged)
        self.merged = merged
        self._ratios = ratios or {}
        self._second = any(".local_" in n for n in tensors)
        self.mix(0.0 if not self._second else None if self.own_prompts is None else 0.5)

    def mix(self, local: float | Tensor | None) -> None:
        """Weight every layer's two adapters: the first by 1 - local, the second by local; None gives both the weight 1.

        No effect without a second adapter, or with VeRA.
        """
        for group in self.scales:
            self.mix_group(group, local)

    def mix_group(self, group: str, local: float | Tensor | None) -> None:
        """`mix` in one group; `local` may be a tensor (B, 1, 1), one weight per example."""
        s = self.scales[group] * self._ratios.get(group, 1.0)
        for place, layer in self.layers.items():
            if group_of(place) != group or not hasattr(layer, "scaling"):
                continue
            second = "local" in layer.scaling
            layer.scaling["default"] = s if local is None or not second else s * (1 - local)
            if second:
                layer.scaling["local"] = s if local is None else s * local

    @contextmanager
    def mixed_by_prompts(
        self, group: str, examples: Sequence[Any], features: Sequence[Any] | None = None
    ) -> Iterator[None]:
        """Weight the personal adapter in `group` per example, if the client's prompt states are loaded (FedDPA-LoRA).

        w = half the mean cosine between the example's prompt state and those of the client's own prompts.
        """
        if self.own_prompts is None:
            yield
            return
        assert isinstance(self, HasPromptStates)  # noqa: S101 - implied by prompt states
        states = self.prompt_states(examples, features)
        similarity = cosine_similarity(states[:, None], self.own_prompts.to(states)[None], dim=-1).mean(1)
        self.mix_group(group, (0.5 * similarity)[:, None, None])
        try:
            yield
        finally:
            self.mix_group(group, 0.5)

    def begin(self, names: Collection[str]) -> list[nn.Parameter]:
        """Make only these tensors trainable; returns their parameters in name order."""
        chosen = frozenset(names)
        for name, parameter in self.tensors.items():
            parameter.requires_grad_(name in chosen)
            parameter.grad = None
        self.dropout_in(frozenset(group_of(n) for n in chosen))
        return [p for n, p in self.tensors.items() if n in chosen]

    def rest(self) -> None:
        """Freeze all tensors and disable all dropout."""
        self.begin(frozenset())

    def exported(self) -> dict[str, Tensor]:
        """All tensors for the model's own scale, with client scales folded into B, and the merged factors.

        A second adapter is included only if it was loaded.
        """
        own = {n: t for n, t in self.tensors.items() if self._second or ".local_" not in n}
        tensors: dict[str, Tensor] = {**own, **self.merged}
        for name in own:
            ratio = self._ratios.get(group_of(name), 1.0)
            if ratio != 1.0 and name.endswith(("lora_B", "local_B")):
                tensors[name] = tensors[name] * ratio
        return tensors

    @property
    def device(self) -> torch.device:
        """The device of tensors and foundation."""
        return next((t.device for t in self.tensors.values()), torch.device("cpu"))

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Cast the frozen weights of a model made in memory to `dtype`, in which it then computes; loaders read them in it."""
        self.precision = dtype
        own = {id(t) for t in self.tensors.values()}
        settle(self.root, dtype, trained=own)

    def compile_frozen(self, **options: Any) -> int:
        """Apply `torch.compile` to the blocks without trainable tensors; returns their number. See `precision.compile_frozen`."""
        self.compiled = True
        own = {id(t) for t in self.tensors.values()}
        adapted = {
            id(m) for m in self.root.modules() if any(id(p) in own for p in m.parameters(recurse=False))
        }
        return compile_frozen(self.root, adapted | {id(layer) for layer in self.layers.values()}, **options)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The parts that gradients pass, by the name that a note gives them."""
        return {"the model": self.root}

    def checkpoint(self) -> None:
        """Compute activations again in the backward pass instead of keeping them; notes name the parts that cannot.

        Raises ExperimentError where no part can.
        """
        self.notes += enable_checkpointing(self.root, self.parts, lambda: self.replay())

    @cached_property
    def feature_tensors(self) -> Collection[str]:
        """The tensors on which `features` depends; a stage that trains none of them uses cached features.

        Default: the encoder's tensors, and all tensors of a model without UniFLoW's parts. A model whose `features` end before
        its first trained layer, such as an image tower with adapters in the top blocks only, returns none.
        """
        return [n for n in self.tensors if part_of(group_of(n)) in ("encoder", None)]

    def feature_version(self, own: Mapping[str, Tensor] | None = None) -> bytes:
        """A fingerprint of the loaded state on which `features` depends; `own` replaces tensors by name."""
        digest, groups = blake2b(digest_size=16), {group_of(n) for n in self.feature_tensors}
        values: dict[str, Tensor] = {n: self.tensors[n] for n in self.feature_tensors}
        values |= {n: t for n, t in (own or {}).items() if n in values}
        values |= {n: t for n, t in self.merged.items() if group_of(n) in groups}
        for name, tensor in sorted(values.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(bytes_of(tensor.detach().cpu().contiguous()))
        for place, layer in sorted(self.layers.items()):
            if group_of(place) in groups:
                scales = getattr(layer, "scaling", {})
                digest.update(
                    repr([(n, torch.as_tensor(s).tolist()) for n, s in sorted(scales.items())]).encode()
                )
        return digest.digest()

    def kept_features(
        self, version: bytes, owner: Hashable, wanted: Sequence[int], examples: Sequence[Any]
    ) -> list[Any]:
        """The features of the `wanted` examples of an owner, by the model as loaded, from the cache where possible."""
        return self.store.of(version, owner, wanted, examples, self.features)

    @property
    def frozen_prefix(self) -> Prefix | None:
        """The frozen part that `features` runs, so that runs can share its results; None where they cannot."""
        return None

    def shared_features(self, limit: int) -> SharedFeatures | None:
        """The features of other runs on disk, of `limit` bytes in all; None without any, and for compiled blocks."""
        prefix = self.frozen_prefix
        if prefix is None or not limit or self.compiled:  # a compiled block rounds as its compiler likes
            return None
        return SharedFeatures(prefix, limit, list(self.tensors.values()))

    @property
    def has_features(self) -> bool:
        """Whether `features` gives anything: not in models without frozen layers before the first trained one."""
        return type(self).features is not Trainable.features

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """Frozen tensors derived from the seed, for aggregation: VeRA's pairs."""
        return frozen_pairs(self.layers)

    @property
    @abstractmethod
    def root(self) -> nn.Module:
        """The module that holds foundation and adapters."""

    @property
    def rows(self) -> RowMap:
        """Maps rows of the current forward pass to examples; for stackable models."""
        raise TypeError(f"{type(self).__name__} does not train a cohort as one batch")

    def dropout_in(self, groups: frozenset[str]) -> None:
        """Activate adapter dropout in these groups only; the frozen base stays in eval mode. Default: no dropout."""
        return None

    @abstractmethod
    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """The groups that a client with these modalities instantiates; `client` is its name, if needed."""

    @abstractmethod
    def prepare(self, sample: Sample, client: str | None = None) -> Any:
        """The model's input for a sample; `client` is the name of its owner, if needed.

        Raises ExperimentError for a sample that the model cannot read.
        """

    def positions(self, example: Any) -> int:
        """Number of token positions of an example in the foundation, encoder and LLM together."""
        return 1

    def features(self, examples: Sequence[Any]) -> Sequence[Any]:
        """The frozen encoder's output for each example, without gradients, as input of `losses`, `score` and `generate`.

        Default: an empty mapping each, for models without frozen layers before the first trained one.
        """
        return [{} for _ in examples]

    def weight(self, example: Any) -> int:
        """Number of terms that an example adds to the mean of its owner's loss, such as its answer tokens."""
        return 1

    def loss(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> Tensor:
        """Scalar training loss of a batch, with gradients."""
        return self.losses(examples, [0] * len(examples), 1, features)[0]

    @abstractmethod
    def losses(
        self,
        examples: Sequence[Any],
        owners: Sequence[int],
        count: int,
        features: Sequence[Any] | None = None,
    ) -> Tensor:
        """(count,): mean loss of each owner's examples in a batch; `owners[i]` is the owner of example i, non-decreasing."""

    @abstractmethod
    def score(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> list[tuple[int, int]]:
        """Per example: number of answer tokens, and number of correctly predicted ones (teacher forced)."""

    @abstractmethod
    def generate(
        self, examples: Sequence[Any], max_new_tokens: int, features: Sequence[Any] | None = None
    ) -> list[str]:
        """Per example: the greedily decoded answer."""

    @abstractmethod
    def save_adapters(self, folder: Path) -> None:
        """Write the current tensors in Hugging Face formats; equal tensors give equal bytes."""

    def save_merged(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
        """Write the whole model, its adapters merged, as its plain class loads it; afterwards this object is used up.

        `dtypes`: the stored dtype by part, `llm`, `encoder` and so on, or "" for a model of one part. Raises ExperimentError for
        a model that has no such form.
        """
        raise ExperimentError(
            "the run trained parts that are no LoRA adapters, and there is no plain model to merge them into; leave --merge out"
        )


def padded(value: Tensor, like: Tensor) -> Tensor:
    """`value` zero-padded to the shape of `like`."""
    if value.shape == like.shape:
        return value
    result = torch.zeros_like(like, requires_grad=False)
    result[tuple(slice(n) for n in value.shape)] = value.to(result)
    return result


def means(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """(count,): mean of `values` (N,) per owner (N,)."""
    total = values.new_zeros(count).index_add(0, owners, values)
    return total / torch.bincount(owners, minlength=count).clamp(min=1)
