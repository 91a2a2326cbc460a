"""The contents of a model: loaded parts, adapters, and the tensors that each kind of client trains, shares and keeps."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from fedloom.core.payload import Scope, group_of
from fedloom.federation.client import Client
from fedloom.models.base import Trainable


@dataclass(frozen=True)
class LoadedPart:
    """One frozen part: its class, number of parameters, dtypes, and bytes in memory."""

    name: str
    kind: str
    parameters: int
    dtype: str
    bytes: int


@dataclass(frozen=True)
class AdaptedGroup:
    """The adapters of one group: number of layers, names of the layers, kinds and ranks."""

    group: str
    layers: int
    places: str
    rank: str


@dataclass(frozen=True)
class ClientKind:
    """Clients that hold the same groups at the same ranks, and their parameters by role. `trained` are shared or personal."""

    name: str
    clients: tuple[str, ...]
    trained: int
    shared: int
    personal: int
    frozen: int
    groups: Mapping[str, tuple[str, int]]
    """By group: its roles, and its number of parameters."""


def loaded_parts(model: Trainable, tools: object | None) -> list[LoadedPart]:
    """The model's parts without what is trained, then the server's own models."""
    own = {id(t) for t in model.tensors.values()}
    parts = [_part(name, module, own) for name, module in _modules(model.root)]
    for name, value in _members(tools):
        parts.append(_part(f"server: {name}", value, own))
    return [p for p in parts if p.parameters]


def _modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The root's children, with containers opened; the root itself where they do not hold all its parameters."""
    children = list(root.named_children())
    if not children or any(True for _ in root.parameters(recurse=False)):
        yield type(root).__name__, root
        return
    for name, child in children:
        if isinstance(child, nn.ModuleDict):
            yield from ((f"{name}.{key}", module) for key, module in child.items())
        else:
            yield name, child


def _members(tools: object | None, depth: int = 2) -> Iterator[tuple[str, nn.Module]]:
    """The modules among an object's members, and among theirs."""
    for name, value in vars(tools).items() if hasattr(tools, "__dict__") else ():
        if isinstance(value, nn.Module):
            yield name, value
        elif depth > 1 and type(value).__module__.startswith("fedloom") and not isinstance(value, Trainable):
            yield from _members(value, depth - 1)


def _part(name: str, module: nn.Module, own: Iterable[int]) -> LoadedPart:
    trained = set(own)
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if id(t) not in trained}
    parameters = [t for t in module.parameters() if id(t) not in trained]
    kinds = Counter[str]()
    for tensor in parameters:
        kinds[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return LoadedPart(
        name,
        type(getattr(module, "get_base_model", lambda: module)()).__name__,  # PEFT's wrapper says nothing
        sum(t.numel() for t in parameters),
        ", ".join(kind for kind, _ in kinds.most_common()),
        sum(t.numel() * t.element_size() for t in tensors.values()),
    )


def adapted_groups(model: Trainable) -> list[AdaptedGroup]:
    """The adapters by group; groups without adapted layers, such as a projector, are left out."""
    found: dict[str, list[tuple[str, str]]] = {}
    for place, layer in model.layers.items():
        ranks = getattr(layer, "r", {})
        rank = str(ranks.get("default", "")) if isinstance(ranks, Mapping) else ""
        found.setdefault(group_of(place), []).append((place.rstrip(".").rpartition(".")[2], rank))
    return [
        AdaptedGroup(
            group,
            len(layers),
            ", ".join(sorted({n for n, _ in layers})),
            ", ".join(sorted({r for _, r in layers})),
        )
        for group, layers in sorted(found.items())
    ]


def client_kinds(model: Trainable, clients: Mapping[str, Client], scope: Scope) -> list[ClientKind]:
    """The clients by what they hold, in name order of each kind's first client."""
    kinds: dict[object, list[str]] = {}
    for name in sorted(clients):
        client = clients[name]
        kinds.setdefault((client.data.holds, client.groups, tuple(sorted(client.shapes.items()))), []).append(
            name
        )
    return [_kind(model.start, names, clients[names[0]], scope) for names in kinds.values()]


def _kind(start: Mapping[str, Tensor], names: list[str], client: Client, scope: Scope) -> ClientKind:
    held = client.held({n: torch.empty(t.shape, device="meta") for n, t in start.items()})
    roles: Counter[str] = Counter()
    groups: dict[str, tuple[set[str], int]] = {}
    for name, tensor in held.items():
        role, size = scope.role(name), prod(tensor.shape)
        roles[role] += size
        known, total = groups.get(group_of(name), (set(), 0))
        groups[group_of(name)] = known | {role}, total + size
    return ClientKind(
        "+".join(client.data.holds) or "text",
        tuple(names),
        roles["shared"] + roles["personal"],
        roles["shared"],
        roles["personal"],
        roles["frozen"],
        {g: (" and ".join(sorted(r)), n) for g, (r, n) in sorted(groups.items())},
    )
