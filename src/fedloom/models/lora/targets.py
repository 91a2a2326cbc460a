"""The layers that an adapter goes on: named ones, all projections of the attention (`auto`), or all linear layers (`all-linear`).

A layer is a `nn.Linear`, or transformers' `Conv1D` (GPT-2), which is one with a transposed weight. A target is the end of a path,
such as `q_proj` or `attn.c_proj`, as PEFT reads it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from fedloom.core.errors import ExperimentError

Targets = Literal["auto", "all-linear"] | tuple[str, ...]
Auto = Literal["attention", "query and value"]
"""Meaning of `auto`: all projections of the attention, or of those the query and the value where they are apart."""
QUERY_AND_VALUE = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj")


def linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a module by path."""
    from transformers.pytorch_utils import Conv1D

    return {name: m for name, m in module.named_modules() if name and isinstance(m, nn.Linear | Conv1D)}


def size_of(layer: nn.Module) -> tuple[int, int]:
    """(d_out, d_in) of a linear layer; a quantised one's weight has another shape."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - for the type checker
    rows, columns = weight.shape
    return int(columns), int(rows)


def attention_layers(module: nn.Module) -> list[str]:
    """Paths of the linear layers inside an attention, known by its class's name.

    `nn.MultiheadAttention` is left out: it reads the weight of its `out_proj` and never calls it.
    """
    modules = dict(module.named_modules())
    found = []
    for name in linear_layers(module):
        parts = name.split(".")
        above = [modules[".".join(parts[:n])] for n in range(1, len(parts))]
        named = any("attention" in type(m).__name__.lower() for m in above)
        if named and not any(isinstance(m, nn.MultiheadAttention) for m in above):
            found.append(name)
    return found


def adapted(module: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Module]:
    """The linear layers that these ends of paths name."""
    return {n: m for n, m in linear_layers(module).items() if any(_ends(n, t) for t in targets)}


def resolved(
    targets: Targets, modules: Mapping[str, nn.Module], auto: Auto = "attention"
) -> dict[str, tuple[str, ...]]:
    """The targets in every group's module: the shortest ends of paths that name its layers and no other module.

    Raises ExperimentError for a target that names no linear layer of any group, for a group without a layer to adapt, and for an
    output layer that shares its weight with the embeddings.
    """
    chosen = {group: _chosen(targets, module, auto) for group, module in modules.items()}
    known = {
        group: ", ".join(sorted({_leaf(n) for n in linear_layers(m)})) or "none"
        for group, m in modules.items()
    }
    for target in targets if isinstance(targets, tuple) else ():
        if not any(_ends(name, target) for names in chosen.values() for name in names):
            listed = "; ".join(f"{group} has {names}" for group, names in known.items())
            raise ExperimentError(f"the LoRA target {target} names no linear layer; {listed}")
    for group, names in chosen.items():
        if not names and not linear_layers(modules[group]):
            raise ExperimentError(
                f"LoRA targets: {group} has no linear layer to adapt; "
                + (
                    "model.encoder_lora: null leaves encoders frozen"
                    if group.startswith("encoder.")
                    else "name another one"
                )
            )
        if not names:
            what = (
                f"{', '.join(targets)} name none" if isinstance(targets, tuple) else f"{targets} finds none"
            )
            raise ExperimentError(
                f"LoRA targets: {what} of the linear layers of {group}; name some of {known[group]}, or all-linear"
            )
        if tied := _tied_output(modules[group]) & set(names):
            raise ExperimentError(
                f"the LoRA target {min(tied)} of {group} shares its weight with the input embeddings, which an adapter on it "
                "would leave behind; leave it out"
            )
    return {group: _endings(names, modules[group]) for group, names in chosen.items()}


def described(module: nn.Module, targets: tuple[str, ...]) -> str:
    """The adapted layers by name with their numbers, and those of the attention that are left out."""
    own = adapted(module, targets)
    left = [n for n in attention_layers(module) if n not in own]
    return _counted(own) + (f"; {_counted(left)} of the attention are not adapted" if left else "")


def _chosen(targets: Targets, module: nn.Module, auto: Auto) -> list[str]:
    if targets == "auto":
        names = attention_layers(module)
        some = [n for n in names if _leaf(n) in QUERY_AND_VALUE]
        return some if auto == "query and value" and some else names
    if targets == "all-linear":
        output = _output(module)
        return [n for n, layer in linear_layers(module).items() if layer is not output]
    return list(adapted(module, targets))


def _output(module: nn.Module) -> nn.Module | None:
    """The layer that gives the logits of a language model."""
    get = getattr(module, "get_output_embeddings", None)
    return get() if callable(get) else None


def _tied_output(module: nn.Module) -> set[str]:
    """The path of the output layer, if its weight is that of the input embeddings."""
    output = _output(module)
    if output is None or output.weight is not module.get_input_embeddings().weight:  # type: ignore[operator]
        return set()
    return {name for name, m in module.named_modules() if m is output}


def _endings(chosen: Collection[str], module: nn.Module) -> tuple[str, ...]:
    """The shortest ends of paths that name the chosen layers and no other module, in the order of the layers."""
    others = [name for name, _ in module.named_modules() if name and name not in set(chosen)]
    taken = {".".join(name.split(".")[-n:]) for name in others for n in range(1, name.count(".") + 2)}
    found: dict[str, None] = {}
    for name in chosen:
        parts = name.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[next((end for end in ends if end not in taken), name)] = None
    return tuple(found)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{leaf} ×{count}" for leaf, count in sorted(Counter(map(_leaf, names)).items()))
