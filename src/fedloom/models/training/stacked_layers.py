"""Several clients' tensors on one model: every trained layer gets a client axis, frozen layers stay unchanged.

A cohort's batches stand one after another in one batch. A stacked layer multiplies each row by its own client's weights, in one
batched product, so that a client has the same rows, loss and gradient as alone, up to rounding.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from fedloom.models.base import Trainable, padded
from fedloom.models.batch_rows import RowMap
from fedloom.models.clip.adapter import Single
from fedloom.models.training.replay import Replayed
from fedloom.models.training.row_split import Split

LORA = {"default": ("lora_A", "lora_B"), "local": ("local_A", "local_B")}
VERA = {"default": ("lambda_d", "lambda_b"), "local": ("local_d", "local_b")}
"""Suffixes of the two travelling tensors, by PEFT's adapter name."""
SQUARE = "lora_R"
"""Suffix of a square adapter's one travelling tensor."""


class AdapterStack:
    """The named tensors of K clients as parameters (K, ...), put into a model's layers while `installed`."""

    def __init__(
        self, model: Trainable, starts: Sequence[Mapping[str, Tensor]], names: Sequence[str]
    ) -> None:
        """`starts[k]`: tensors of client k; a missing one begins at the model's start value."""
        self.model, self.clients = model, len(starts)
        self.tensors: dict[str, nn.Parameter] = {}
        for name in sorted(names):
            like = model.tensors[name]
            values = [padded(s.get(name, model.start[name]), like) for s in starts]
            self.tensors[name] = nn.Parameter(torch.stack(values).to(like), requires_grad=False)
        self._generators: list[torch.Generator] = []
        self._known: dict[tuple[int, int], tuple[RowMap, Split]] = {}
        self._seen: dict[str, set[int]] = {}
        self._replayed: RowMap | None = None

    def begin(self, names: frozenset[str]) -> list[nn.Parameter]:
        """Make exactly these trainable; returns their parameters in name order."""
        for name, parameter in self.tensors.items():
            parameter.requires_grad_(name in names)
            parameter.grad = None
        return [p for n, p in self.tensors.items() if n in names]

    def seed(self, seeds: Sequence[int]) -> None:
        """Seed one dropout stream per client."""
        device = next(iter(self.model.tensors.values())).device
        self._generators = [torch.Generator(device).manual_seed(s) for s in seeds]

    def at(self, owners: Sequence[int]) -> None:
        """Set the client of each example of the next batch."""
        self.model.owners = owners
        self._known.clear()
        self._seen.clear()

    def took_part(self, names: Sequence[frozenset[str]]) -> Tensor:
        """(K, trained tensors), bool: whether a tensor in `names[k]` was applied to a row of client k since `at`."""
        trained = [n for n, p in self.tensors.items() if p.requires_grad]
        return torch.tensor(
            [[n in own and k in self._seen.get(n, ()) for n in trained] for k, own in enumerate(names)]
        )

    def of(self, client: int, names: frozenset[str]) -> dict[str, Tensor]:
        """A copy of one client's tensors."""
        return {n: self.tensors[n][client].detach().clone() for n in sorted(names)}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Context in which the model's layers use the stack; it restores them at the end."""
        changed: list[nn.Module] = []

        def put(module: nn.Module, forward: Callable[..., Tensor]) -> None:
            module.forward = forward
            changed.append(module)

        try:
            for place, layer in self.model.layers.items():
                endings = (SQUARE, *(e for pair in (*LORA.values(), *VERA.values()) for e in pair))
                if any(f"{place}.{e}" in self.tensors for e in endings):
                    put(layer, partial(self._lora if hasattr(layer, "scaling") else self._vera, layer, place))
            for layer, names in plain_layers(self.model, self.tensors).items():
                if isinstance(layer, Single):
                    put(layer, partial(self._single, names["value"]))
                elif isinstance(layer, nn.Linear):
                    put(layer, partial(self._linear, layer, names))
                else:
                    put(layer, partial(self._module, _without_hooks(layer), names))
            for module in self.model.root.modules():
                if isinstance(module, nn.Dropout) and module.p > 0:
                    put(module, partial(self._dropout, module))
            self.model.replay = self._replay
            yield
        finally:
            self.model.replay, self.model.owners = nullcontext, ()
            for module in changed:
                del module.forward

    @property
    def rows(self) -> RowMap:
        """Maps rows of the current module's input to examples, also where the backward pass computes it again."""
        return self.model.rows if self._replayed is None else self._replayed

    def _replay(self) -> Replayed:
        """The context of a block's second forward pass, made at its first."""
        drops = any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in self.model.root.modules())
        return Replayed(self.rows, self._generators if drops else (), self._show)

    def _show(self, rows: RowMap | None) -> None:
        self._replayed = rows

    def _split(self, x: Tensor) -> Split:
        """Split of the rows of x among clients; cached, since all layers at these rows share it."""
        rows = self.rows
        key = (id(rows), len(x))
        if key not in self._known:
            each = len(x) // len(rows.of)
            owners = [self.model.owners[i] for i in rows.of for _ in range(each)]
            self._known[key] = rows, Split.of(owners, self.clients, x.device)
        return self._known[key][1]

    def _own(self, name: str, split: Split) -> Tensor | None:
        """The stack of a tensor (K, ...), None where all clients have the model's; records the clients that it is applied to."""
        if name in self.tensors and torch.is_grad_enabled():
            self._seen.setdefault(name, set()).update(split.members)
        return self.tensors.get(name)

    def _lora(self, layer: Any, place: str, x: Tensor) -> Tensor:
        """PEFT's LoRA layer, W0 x + s B A x, every row (R, ..., d_in) by its client's A (K, r, d_in) and B (K, d_out, r)."""
        split = self._split(x)
        out: Tensor = layer.base_layer(x)
        for adapter in layer.active_adapters:
            A, B = (self._own(f"{place}.{ending}", split) for ending in LORA[adapter])
            if (R := self._own(f"{place}.{SQUARE}", split)) is not None:
                A = R @ layer.lora_A[adapter].frozen
            rows = split.apart(layer.lora_dropout[adapter](x))
            inner = split.times(rows, A, layer.lora_A[adapter].weight) * layer.scaling[adapter]
            out = split.plus(out, inner, B, layer.lora_B[adapter].weight)
        return out

    def _vera(self, layer: Any, place: str, x: Tensor) -> Tensor:
        """PEFT's VeRA layer, W0 x + λ_b B (λ_d A x), every row by its client's vectors (K, r) and (K, d_out)."""
        split = self._split(x)
        out: Tensor = layer.base_layer(x)
        for adapter in layer.active_adapters:
            d, b = (self._own(f"{place}.{ending}", split) for ending in VERA[adapter])
            A = layer.vera_A[adapter][:, : layer.in_features]
            B = layer.vera_B[adapter][: layer.out_features]
            inner = linear(layer.vera_dropout[adapter](x), A)
            inner = inner * split.rows(d, layer.vera_lambda_d[adapter], x.dim())
            out = out + (linear(inner, B) * split.rows(b, layer.vera_lambda_b[adapter], x.dim())).to(
                out.dtype
            )
        return out

    def _linear(self, layer: nn.Linear, names: Mapping[str, str], x: Tensor) -> Tensor:
        """A trained Linear layer, such as a projector: weight (K, d_out, d_in), bias (K, d_out)."""
        split = self._split(x)
        weight, bias = (self._own(names.get(n, ""), split) for n in ("weight", "bias"))
        out = split.joint(split.times(split.apart(x), weight, layer.weight), x)
        if layer.bias is None:
            return out
        return out + split.rows(bias, layer.bias, x.dim())

    def _module(self, layer: nn.Module, names: Mapping[str, str], x: Tensor) -> Tensor:
        """Any other layer of one input, such as a norm: the rows of each client by its own tensors, one client at a time."""
        split = self._split(x)
        own = {inner: stack for inner, n in names.items() if (stack := self._own(n, split)) is not None}
        rows = torch.split(x, torch.bincount(split.owners)[list(split.members)].tolist())
        parts = [
            functional_call(layer, {inner: stack[k] for inner, stack in own.items()}, (part,))
            for k, part in zip(split.members, rows, strict=True)
        ]
        return torch.cat(parts)

    def _single(self, name: str) -> Tensor:
        """A tensor outside any layer: (P, ...) of the clients with examples in the batch."""
        members = sorted(set(self.model.owners))
        if torch.is_grad_enabled():
            self._seen.setdefault(name, set()).update(members)
        stack = self.tensors[name]
        return stack if len(members) == self.clients else stack[members]

    def _dropout(self, module: nn.Dropout, x: Tensor) -> Tensor:
        """Dropout with one mask per client from its own stream, in the shape of its batch alone."""
        if not module.training:
            return x
        rows, owners = self.rows, self._split(x).owners.tolist()
        lengths = (
            [n for n in rows.lengths or () for _ in range(len(x) // len(rows.of))] if x.dim() > 2 else []
        )
        mask = torch.zeros_like(x)
        for client in sorted(set(owners)):
            start = owners.index(client)
            own = slice(start, start + owners.count(client))
            part = mask[own, : max(lengths[own])] if lengths else mask[own]
            kept = torch.empty(part.shape, dtype=x.dtype, device=x.device)
            part.copy_(kept.bernoulli_(1 - module.p, generator=self._generators[client]))
        return x * mask / (1 - module.p)


def plain_layers(model: Trainable, names: Mapping[str, Any]) -> dict[nn.Module, dict[str, str]]:
    """The layers outside PEFT's adapters that hold these tensors: `{layer: {name inside the layer: travelling name}}`.

    Of layers inside one another the outermost stands for all. Raises TypeError for a tensor in a kind of module that cannot be
    stacked.
    """
    names_by_id = {
        id(p): name
        for name, p in model.tensors.items()
        if name in names and name.rsplit(".", 1)[0] not in model.layers
    }
    layers: dict[nn.Module, dict[str, str]] = {}
    inside: set[int] = set()
    row_wise = {id(module) for module in model.row_wise}
    for module in model.root.modules():
        own = [p for p in module.parameters(recurse=False) if id(p) in names_by_id]
        if not own or id(module) in inside:
            continue
        if not isinstance(module, nn.Linear | Single) and id(module) not in row_wise:
            raise TypeError(
                f"{names_by_id[id(own[0])]} is in a {type(module).__name__}, which cannot be stacked"
            )
        layers[module] = {
            inner: names_by_id[id(p)] for inner, p in module.named_parameters() if id(p) in names_by_id
        }
        inside |= {id(m) for m in module.modules()}
    return layers


def _without_hooks(layer: nn.Module) -> nn.Module:
    """A second handle of the layer, which keeps its own `forward` and calls no hooks."""
    plain = copy.copy(layer)
    plain._forward_hooks, plain._forward_pre_hooks = (
        type(layer._forward_hooks)(),
        type(layer._forward_hooks)(),
    )
    return plain
