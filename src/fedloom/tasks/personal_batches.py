"""Personal models of several clients evaluated in one batch, their tensors stacked as in cohort training.

With few test samples each, one client after another would fill no batch. Figures are those of one after another, up to rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from fedloom.core.errors import with_place
from fedloom.core.plain_text import plain
from fedloom.models.base import PROMPT_STATES, Trainable
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.training.cohort import differing, same_base
from fedloom.models.training.stacked_layers import AdapterStack, plain_layers

T = TypeVar("T")


@dataclass(frozen=True)
class ClientModel:
    """A client's personal model: the tensors to load, and its LoRA scales relative to the model's, by group."""

    tensors: Mapping[str, Tensor]
    ratios: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Pack:
    """Clients, in name order, whose samples are one batch; or a single client with any number of samples."""

    clients: list[str] = field(default_factory=list)
    models: list[ClientModel] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """Samples of each client."""
    names: set[str] = field(default_factory=set)
    """Tensors that differ among the clients."""

    def apart(self) -> "list[Pack]":
        """Each client by itself."""
        each = zip(self.clients, self.models, self.counts, strict=True)
        return [Pack([client], [personal], [samples]) for client, personal, samples in each]

    def whose(self, first: int, of: int) -> str:
        """The clients for the progress, the first of them number `first` of so many."""
        if len(self.clients) == 1:
            return f"{self.clients[0]} ({first} of {of})"
        last = first + len(self.clients) - 1
        return f"{self.clients[0]} to {self.clients[-1]} ({first} to {last} of {of})"


def packs(
    model: Trainable,
    own: Mapping[str, ClientModel],
    clients: Sequence[str],
    count: Callable[[str], int],
    *,
    batch_size: int,
    cohort: int,
) -> Iterator[Pack]:
    """Packs of these clients in their order: at most `cohort` of them, with `batch_size` samples; each built as it is due."""
    pack = Pack()
    for client in clients:
        samples, personal = count(client), own[client]
        held = sum(pack.counts)
        fits = 0 < samples <= batch_size - held and held > 0 and len(pack.clients) < cohort
        if pack.clients and not (fits and _joins(model, pack, personal)):
            yield pack
            pack = Pack()
        pack.clients.append(client)
        pack.models.append(personal)
        pack.counts.append(samples)
    if pack.clients:
        yield pack


def _joins(model: Trainable, pack: Pack, personal: ClientModel) -> bool:
    """Whether this model can be stacked on those of the pack; notes the tensors in which it differs."""
    first = pack.models[0]
    if not model.stackable or _kind(first) != _kind(personal):
        return False
    if PROMPT_STATES in personal.tensors or not same_base(first.tensors, personal.tensors):
        return False  # prompt states set the weights of the adapters, which are one client's
    more = differing(model, [first.tensors, personal.tensors]) - pack.names
    try:
        if more:
            plain_layers(model, dict.fromkeys(more))
    except TypeError:
        return False
    pack.names |= more
    return True


def _kind(personal: ClientModel) -> object:
    """Key of models that are loaded alike but for their tensors' values."""
    ratios = {group: ratio for group, ratio in personal.ratios.items() if ratio != 1}
    return ratios, any(".local_" in n for n in personal.tensors), PROMPT_STATES in personal.tensors


def with_pack(model: Trainable, pack: Pack, work: Callable[[Sequence[str]], T]) -> list[T]:
    """The results of `work` for the clients of the pack; where it fails for several, for each by itself, which a note says."""
    try:
        with loaded(model, pack):
            return [work(pack.clients)]
    except Exception as error:  # one client's samples may be the reason
        if len(pack.clients) == 1:
            raise
        note = f"the personal models from {pack.clients[0]} to {pack.clients[-1]} are evaluated one after another: together it"
        note = plain(f"{note} raised {with_place(error)}")
        if note not in model.notes:
            model.notes.append(note)
    return [result for one in pack.apart() for result in with_pack(model, one, work)]


@contextmanager
def loaded(model: Trainable, pack: Pack) -> Iterator[None]:
    """Context in which the model answers each sample of the pack, client by client, with that client's tensors."""
    model.load(pack.models[0].tensors, pack.models[0].ratios)
    if not pack.names:
        yield
        return
    stack, store = AdapterStack(model, [m.tensors for m in pack.models], sorted(pack.names)), model.store
    if not pack.names.isdisjoint(model.feature_tensors):
        model.store = FeatureCache()  # the model's own keeps features of one client's tensors
    try:
        with stack.installed():
            stack.at([k for k, samples in enumerate(pack.counts) for _ in range(samples)])
            yield
    finally:
        model.store = store
