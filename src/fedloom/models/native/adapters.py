"""Adapters on the parts of a native model: which layers they go on, in place."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.models.lora.layers import LoRA, adapted_layers, attach, dropouts, named_factors
from fedloom.models.native.families import Family


class Reached(Exception):
    """Raised by a hook to end a forward pass early."""


@dataclass(frozen=True)
class Adapter:
    """The adapter on one part. `path`: the part's module; `spec`: its shape, with the paths of its layers in the whole model."""

    path: str
    spec: LoRA
    wrapped: Any

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
    wrapped = attach(model.get_submodule(path), exact, group, seed, second)
    whole = spec.model_copy(update={"targets": tuple(f"{path}.{name}" for name in layers)})
    return Adapter(path, whole, wrapped)


def layers_of(
    model: nn.Module, path: str, spec: LoRA, default: Sequence[str], without: Collection[str], group: str
) -> list[str]:
    """Paths, below the module at `path`, of the Linear layers that the targets name; `default` stands for the default targets.

    A target is the end of a path. Layers inside the modules `without` are left out. Raises ExperimentError for a target that
    names no layer.
    """
    linear = [
        name
        for name, module in model.get_submodule(path).named_modules()
        if isinstance(module, nn.Linear) and not any(_inside(f"{path}.{name}", w) for w in without)
    ]
    if spec.targets == "all-linear":
        return linear
    targets = default if spec.targets == LoRA.model_fields["targets"].default else spec.targets
    named = {t: [n for n in linear if n == t or n.endswith(f".{t}")] for t in targets}
    unknown = [t for t, names in named.items() if not names]
    if unknown and targets is not default or len(unknown) == len(named):
        known = ", ".join(sorted({n.rsplit(".", 1)[-1] for n in linear}))
        raise ExperimentError(
            f"the LoRA targets {', '.join(unknown)} name no layer of {group} ({path}); it has {known}"
        )
    return [n for n in linear if any(n in names for names in named.values())]


def live_layers(
    model: nn.Module, family: Family, modality: str, layers: Sequence[str], run: Callable[[], Any], main: Tensor
) -> list[str]:
    """Those of the encoder's layers that reach its projector: others would be counted and sent, and never trained.

    Examples: the blocks above the one whose output is read, and a pooling head. `run`: a forward pass of a sample with input
    `main`; it is left as soon as the LLM is called.
    """
    tower = family.towers[modality]
    below = model.get_submodule(tower.path)
    outputs: dict[str, Tensor] = {}
    inputs: list[Tensor] = []

    def stop(module: nn.Module, args: Any) -> None:
        raise Reached

    def keep(name: str) -> Any:
        return lambda module, args, output: outputs.__setitem__(name, output)

    def into(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = (t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.is_floating_point())
        inputs.extend(t for t in given if t.requires_grad)

    hooks = [below.get_submodule(n).register_forward_hook(keep(n)) for n in layers]
    hooks += [model.get_submodule(family.llm).register_forward_pre_hook(stop)]
    for path in tower.projector:
        for module in _entrances(model.get_submodule(path)):
            hooks.append(module.register_forward_pre_hook(into, with_kwargs=True))
    try:
        main.requires_grad_(True)
        with torch.enable_grad():
            try:
                run()
            except Reached:
                pass
        rng = torch_stream(0, "live", modality)
        loss = sum((t * torch.randn(t.shape, generator=rng).to(t)).sum() for t in inputs)
        gradients = (
            torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
            if isinstance(loss, Tensor)
            else [None] * len(outputs)
        )
    finally:
        main.requires_grad_(False)
        for hook in hooks:
            hook.remove()
    return [n for n, g in zip(outputs, gradients, strict=True) if g is not None]


def projector_of(model: nn.Module, paths: Sequence[str]) -> Mapping[str, nn.Parameter]:
    """A projector's parameters by their paths in the model."""
    return {f"{path}.{n}": p for path in paths for n, p in model.get_submodule(path).named_parameters()}


def _entrances(module: nn.Module) -> list[nn.Module]:
    """The module, or the entries of a list, which is never called itself."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
