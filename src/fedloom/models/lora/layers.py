"""LoRA adapters (Hu et al., 2022) and VeRA (Kopiczko et al., 2024) through PEFT: attached with a seeded start, named for travel.

LoRA: `W = W0 + s B A` with A (r, d_in), B (d_out, r) and s = alpha / r, or alpha / sqrt(r) with rsLoRA.
VeRA: `W = W0 + diag(lambda_b) B diag(lambda_d) A` with A and B frozen, random, shared by all layers and drawn from one seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import torch_stream
from fedloom.models.lora.square import make_square
from fedloom.models.lora.targets import Auto, adapted, resolved, size_of

if TYPE_CHECKING:  # takes seconds, which a mistake in an experiment file need not wait for
    from peft import LoraConfig, PeftModel, VeraConfig

ENDINGS = {
    "lora_A.default.weight": "lora_A",
    "lora_B.default.weight": "lora_B",
    "lora_A.local.weight": "local_A",
    "lora_B.local.weight": "local_B",
    "lora_A.default.core": "lora_R",
    "vera_lambda_d.default": "lambda_d",
    "vera_lambda_b.default": "lambda_b",
    "vera_lambda_d.local": "local_d",
    "vera_lambda_b.local": "local_b",
}
"""Suffixes of trainable tensors: PEFT's, and the travelling name's."""
PREFIX = "base_model.model."
PROJECTION_KEY = 0
"""Seed of VeRA's frozen pair: the same for every client, layer and run, so that it never has to travel."""


class LoRA(BaseModel):
    """One adapter's shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    square: ClassVar[bool] = False
    """Whether both factors are frozen, and a square matrix between them is trained (see `square`)."""

    kind: Literal["lora", "vera"] = Field("lora", description="lora, or vera: two trained vectors per layer")
    rank: int = Field(8, ge=1, description="r, the inner width of both factors")
    alpha: Annotated[float, ReadWith(".kind", ("lora",))] = Field(
        8.0, gt=0, description="scale numerator: s = alpha / r; VeRA has none"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input, in training only")
    rslora: Annotated[bool, ReadWith(".kind", ("lora",))] = Field(
        False, description="s = alpha / sqrt(r) instead (rsLoRA)"
    )
    targets: Literal["auto", "all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "auto",
        description="the adapted linear layers: auto, all projections of the attention (of a text classifier query and "
        "value); all-linear, all but the output layer; or names, such as [q_proj, v_proj]",
    )

    def scale(self, rank: int | None = None, alpha: float | None = None) -> float:
        """s of an adapter of this kind with another rank or alpha; 1 for VeRA, which has no scale."""
        r, a = rank or self.rank, alpha or self.alpha
        return 1.0 if self.kind == "vera" else a / r**0.5 if self.rslora else a / r

    @property
    def names(self) -> tuple[str, ...]:
        """The targets by name. Raises TypeError before `on` has found them."""
        if isinstance(self.targets, str):
            raise TypeError(f"targets {self.targets} mean no names before LoRA.on has seen the model")
        return self.targets

    def on(self, modules: Mapping[str, nn.Module], auto: Auto = "attention") -> dict[str, LoRA]:
        """The adapter of each group's module, its targets by name; see `targets.resolved`. Raises ExperimentError."""
        found = resolved(self.targets, modules, auto)
        return {group: self.model_copy(update={"targets": names}) for group, names in found.items()}

    def peft(self) -> LoraConfig | VeraConfig:
        """The same adapter as PEFT describes it."""
        from peft import LoraConfig, VeraConfig

        if self.kind == "vera":
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # PEFT warns that the frozen pair is not saved; its seed gives it again
                return VeraConfig(
                    r=self.rank,
                    target_modules=list(self.names),
                    vera_dropout=self.dropout,
                    d_initial=0.1,
                    projection_prng_key=PROJECTION_KEY,
                    save_projection=False,
                )
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            target_modules=list(self.names),
            bias="none",
        )


class SquareLoRA(LoRA):
    """The shape of a square adapter; a method asks for it, not an experiment file."""

    square: ClassVar[bool] = True


def attach(
    module: nn.Module, spec: LoRA, group: str, seed: int, second: bool = False, auto: Auto = "attention"
) -> PeftModel:
    """Wrap `module` by PEFT; A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)) from the stream of (seed, group), B = 0.

    `second` adds another adapter of the same shape, `local_A` and `local_B`, that is summed with the first (FedDPA).
    Raises ExperimentError where a target names no linear layer, or where the rank exceeds an adapted layer's size.
    """
    spec = spec.on({group: module}, auto)[group]
    layers = adapted(module, spec.names)
    for name, layer in layers.items():
        d_out, d_in = size_of(layer)
        if spec.kind == "lora" and spec.rank > min(d_in, d_out):
            raise ExperimentError(
                f"LoRA rank {spec.rank} is above the size of {group} {name} ({d_out} x {d_in}); "
                f"at most {min(d_in, d_out)} is right"
            )
    from peft import get_peft_model

    def config() -> LoraConfig | VeraConfig:
        config = spec.peft()
        config.fan_in_fan_out = not all(isinstance(m, nn.Linear) for m in layers.values())
        return config

    with warnings.catch_warnings():
        # PEFT sets the one for every layer, and asks for the other by a name that transformers has replaced
        for message in (".*fan_in_fan_out.*", ".*is_gradient_checkpointing.*"):
            warnings.filterwarnings("ignore", message=message)
        wrapped = get_peft_model(module, config())
        if second:
            wrapped.add_adapter("local", config())
            wrapped.base_model.set_adapter(["default", "local"])
    if spec.square:
        for name, layer in adapted_layers(wrapped).items():
            make_square(layer, f"{group} {name}")
    with torch.no_grad():
        for name, parameter in named_factors(wrapped).items():
            if name.endswith("_A"):
                parameter.copy_(fresh_factor(parameter, seed, "lora", group, name))
            elif name.endswith("_B"):
                parameter.zero_()
        if spec.kind == "vera":
            _restore_vera(wrapped)
    return wrapped


def _restore_vera(wrapped: PeftModel) -> None:
    """Draw VeRA's shared pair again in float32, and set the exact d: PEFT rounds both to the dtype of a bfloat16 base."""
    from peft.tuners.vera.model import _kaiming_init

    model: Any = wrapped.base_model
    stream = torch.Generator().manual_seed(model.peft_config["default"].projection_prng_key)
    A, B = (
        _kaiming_init(tuple(pair["default"].shape), generator=stream) for pair in (model.vera_A, model.vera_B)
    )
    for layer in adapted_layers(wrapped).values():
        for name, d in layer.vera_lambda_d.items():
            d.fill_(model.peft_config[name].d_initial)
            layer.vera_A[name], layer.vera_B[name] = A.to(d.device), B.to(d.device)


def fresh_factor(like: Tensor, seed: int, *stream: str | int) -> Tensor:
    """A start value for A: U(-1/sqrt(d_in), 1/sqrt(d_in)) from the named stream, in the shape of `like` (r, d_in)."""
    bound: float = like.shape[1] ** -0.5
    return torch.rand(like.shape, generator=torch_stream(seed, *stream)) * 2 * bound - bound


def named_factors(wrapped: nn.Module) -> dict[str, nn.Parameter]:
    """`{place.ending: parameter}` of a PEFT-wrapped module; place is the adapted layer's path, endings those of ENDINGS."""
    factors = {}
    for name, parameter in wrapped.named_parameters():
        for ending, short in ENDINGS.items():
            if name.endswith("." + ending):
                factors[name.removeprefix(PREFIX).removesuffix(ending) + short] = parameter
    return factors


def adapted_layers(wrapped: PeftModel) -> dict[str, Any]:
    """PEFT's layer at every place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        name.removeprefix(PREFIX): module
        for name, module in wrapped.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def dropouts(wrapped: PeftModel) -> list[nn.Module]:
    """The dropouts on the adapters' inputs."""
    return [
        module
        for name, module in wrapped.named_modules()
        if isinstance(module, nn.Dropout) and ("lora_dropout" in name or "vera_dropout" in name)
    ]


def frozen_pairs(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """VeRA's frozen `<place>.vera_A` (r, d_in) and `<place>.vera_B` (d_out, r): slices of the one shared pair."""
    pairs = {}
    for place, layer in layers.items():
        if hasattr(layer, "vera_A"):
            pairs[f"{place}.vera_A"] = layer.vera_A["default"][:, : layer.in_features]
            pairs[f"{place}.vera_B"] = layer.vera_B["default"][: layer.out_features]
    return pairs
