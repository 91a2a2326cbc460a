"""Adapters on the parts of a native model: which layers they go on, in place."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.models.lora.layers import LoRA, adapted_layers, attach, dropouts, named_factors
from fedloom.models.lora.targets import described
from fedloom.models.native.families import Tower


class LLMReached(Exception):  # noqa: N818 - no error
    """Raised by a hook to end a forward pass early."""


@dataclass(frozen=True)
class Adapter:
    """The adapter on one part.

    `path`: the part's module; `spec`: its shape, with the paths of its layers in the whole model; `summary`: its layers, counted
    by name, and those of the attention that are left out.
    """

    path: str
    spec: LoRA
    wrapped: Any
    summary: str

    def factors(self) -> dict[str, nn.Parameter]:
        """`{path of the layer in the whole model.ending: parameter}`."""
        return {f"{self.path}.{name}": p for name, p in named_factors(self.wrapped).items()}

    def layers(self) -> dict[str, Any]:
        """PEFT's layers by their paths in the whole model."""
        return {f"{self.path}.{name}": layer for name, layer in adapted_layers(self.wrapped).items()}

    def dropouts(self) -> list[nn.Module]:
        """The dropouts on the adapter's inputs."""
        return dropouts(self.wrapped)


def adapt(
    model: nn.Module, path: str, spec: LoRA, layers: Sequence[str], group: str, seed: int, second: bool
) -> Adapter:
    """Put an adapter on the layers at these paths below the module at `path`; the model itself stays in place."""
    exact = spec.model_copy(update={"targets": tuple(layers)})
    summary = described(model.get_submodule(path), exact.names)
    wrapped = attach(model.get_submodule(path), exact, group, seed, second)
    whole = spec.model_copy(update={"targets": tuple(f"{path}.{name}" for name in layers)})
    return Adapter(path, whole, wrapped, summary)


def layers_of(
    model: nn.Module, parts: Mapping[str, tuple[str, Sequence[str], Sequence[str]]], spec: LoRA
) -> dict[str, list[str]]:
    """By group, the paths of the Linear layers that the targets name, below the group's module.

    `parts`: by group, the module's path, the targets by default, and the modules to leave out. A target is the end of a path.
    Raises ExperimentError for a group without a layer, and for a target that names a layer of no group.
    """
    targets: Any = spec.targets
    own = targets != LoRA.model_fields["targets"].default
    layers: dict[str, list[str]] = {}
    named: set[str] = set()
    for group, (path, default, without) in parts.items():
        linear = [
            name
            for name, module in model.get_submodule(path).named_modules()
            if isinstance(module, nn.Linear) and not any(_inside(f"{path}.{name}", w) for w in without)
        ]
        ends = linear if targets == "all-linear" else targets if own else default
        layers[group] = [n for n in linear if any(n == t or n.endswith(f".{t}") for t in ends)]
        named |= {t for t in ends if any(n == t or n.endswith(f".{t}") for n in linear)}
        if not layers[group]:
            known = ", ".join(sorted({n.rsplit(".", 1)[-1] for n in linear}))
            raise ExperimentError(
                f"the LoRA targets {', '.join(ends)} name no layer of {group} ({path}); it has {known}"
            )
    if own and isinstance(targets, tuple) and (unknown := [t for t in targets if t not in named]):
        raise ExperimentError(f"the LoRA target {unknown[0]} names no layer of {' or '.join(parts)}")
    return layers


@dataclass(frozen=True)
class Probe:
    """The reach of a sample: encoder layers whose output the projector reads, and projector modules that are called.

    Other layers would be counted and sent, and never trained: blocks above the one whose output is read, a pooling head.
    """

    layers: list[str]
    projectors: list[str]


def probe(
    model: nn.Module, llm: str, tower: Tower, layers: Sequence[str], inputs: Mapping[str, Any]
) -> Probe:
    """A forward pass up to the LLM, and a backward pass from the projector to the outputs of the encoder's `layers`."""
    below, main = model.get_submodule(tower.path), inputs[tower.input]
    outputs: dict[str, Tensor] = {}
    called: dict[str, list[Tensor]] = {}

    def stop(module: nn.Module, args: Any) -> None:
        raise LLMReached

    def keep(name: str) -> Any:
        return lambda module, args, output: outputs.__setitem__(name, output)

    def into(path: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = (t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
            called.setdefault(path, []).extend(t for t in given if t.requires_grad)

        return note

    hooks = [below.get_submodule(n).register_forward_hook(keep(n)) for n in layers]
    hooks += [model.get_submodule(llm).register_forward_pre_hook(stop)]
    for path in tower.projector:
        for module in _entrances(model.get_submodule(path)):
            hooks.append(module.register_forward_pre_hook(into(path), with_kwargs=True))
    main.requires_grad_(True)
    try:
        with torch.enable_grad(), suppress(LLMReached):
            model(**inputs, use_cache=False)
    finally:
        main.requires_grad_(False)
        for hook in hooks:
            hook.remove()
    rng = torch_stream(0, "probe")
    seen = [t for tensors in called.values() for t in tensors]
    weights = [torch.randn(t.shape, generator=rng).to(t) for t in seen]
    gradients: Sequence[Tensor | None] = [None] * len(outputs)
    if seen and outputs:
        gradients = torch.autograd.grad(seen, list(outputs.values()), weights, allow_unused=True)
    live = [n for n, g in zip(outputs, gradients, strict=True) if g is not None]
    return Probe(live, [path for path in tower.projector if path in called])


def projector_of(model: nn.Module, paths: Sequence[str]) -> dict[str, nn.Parameter]:
    """A projector's parameters by their paths in the model."""
    return {f"{path}.{n}": p for path in paths for n, p in model.get_submodule(path).named_parameters()}


def _entrances(module: nn.Module) -> list[nn.Module]:
    """The module, or the entries of a list, which is never called itself."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
