"""ImageBind on disk: published key names in safetensors, strict loading of the chosen modalities, conversion.

The published file fuses q, k and v into one matrix and numbers some layers; the model keeps them apart and
names them. The translation is lossless both ways.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.validation import validated
from fedloom.models.imagebind.config import OFFICIAL_KEYS, ImageBindConfig

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_OUR_KEYS = {official: ours for ours, official in OFFICIAL_KEYS.items()}
_PARTS = {
    "stems": "modality_preprocessors",
    "trunks": "modality_trunks",
    "heads": "modality_heads",
    "scales": "modality_postprocessors",
}
_FUSED = ("q_proj", "k_proj", "v_proj")
log = logging.getLogger(__name__)


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state -> published names and layout: q, k, v fused, text mask added, no adapters."""
    plain = {_unwrap(key): value for key, value in state.items() if not _is_adapter(key)}
    out: dict[str, Tensor] = {}
    for key, value in plain.items():
        head, _, last = key.rpartition(".")
        stem, _, layer = head.rpartition(".")
        if layer == "q_proj":
            fused = torch.cat([plain[f"{stem}.{name}.{last}"] for name in _FUSED])
            out[_official_name(f"{stem}.in_proj_{last}")] = fused
        elif layer not in _FUSED:
            out[_official_name(key)] = value
    if (positions := plain.get("stems.text.pos_embed")) is not None:
        context = positions.shape[1]
        mask = torch.full((context, context), -torch.inf, device=positions.device).triu(1)
        out["modality_preprocessors.text.mask"] = mask
    return out


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names and layout -> the model's; q, k and v are views into the fused tensors."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "modality_preprocessors.text.mask":
            continue
        name = _our_name(key)
        if ".in_proj_" in name:
            stem, kind = name.split(".in_proj_")
            for part, piece in zip(_FUSED, value.chunk(3), strict=True):
                out[f"{stem}.{part}.{kind}"] = piece
        else:
            out[name] = value
    return out


class Encoder(Protocol):
    """An ImageBind model, as this file sees it."""

    config: ImageBindConfig

    @property
    def modalities(self) -> Sequence[str]:
        """The modalities that it holds."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by our names."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *, assign: bool) -> Any:
        """Take these tensors."""


M = TypeVar("M", bound=Encoder)
Build = Callable[[ImageBindConfig, Sequence[str] | None], M]
"""Makes a model with these modalities (None: all); the model class itself."""


def official_shapes(build: Build[M], config: ImageBindConfig) -> dict[str, tuple[int, ...]]:
    """Every published key of a configuration with its shape; nothing is allocated. `build` makes the whole model."""
    with torch.device("meta"):
        state = to_official(build(config, None).state_dict())
    return {key: tuple(value.shape) for key, value in state.items()}


def check_keys(
    shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Compare keys and shapes.

    Raises:
        ExperimentError: names what is missing, unknown or of another shape.

    """
    complaints = [f"missing {key}" for key in expected if key not in shapes]
    complaints += [f"unknown {key}" for key in shapes if key not in expected]
    complaints += [
        f"{key} has shape {shapes[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    if complaints:
        more = f" and {len(complaints) - 8} more" if len(complaints) > 8 else ""
        raise ExperimentError(f"{where} does not fit its configuration: {', '.join(complaints[:8])}{more}")


def save(model: Encoder, directory: Path) -> None:
    """Write config.json (the modalities that the model holds) and model.safetensors."""
    held = {name: model.config.modalities[name] for name in model.modalities}
    write(directory, model.config.model_copy(update={"modalities": held}), to_official(model.state_dict()))


def load(
    build: Build[M],
    directory: Path,
    modalities: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> M:
    """Build the chosen encoders and fill them from disk, memory-mapped on the CPU in the stored type.

    Raises:
        ExperimentError: a file is missing or broken, or keys or shapes differ from the configuration.

    """
    from safetensors import SafetensorError, safe_open

    config, path = _read_config(directory), directory / WEIGHTS_FILE
    with torch.device("meta"):
        model = build(config, modalities)
    if not path.is_file():
        raise ExperimentError(
            f"{path} is missing; an ImageBind folder holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    chosen = {OFFICIAL_KEYS[name] for name in model.modalities}
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            check_keys(shapes, official_shapes(build, config), str(path))
            keys = [key for key in shapes if key.split(".")[1] in chosen]
            state = {key: file.get_tensor(key).to(device=device, dtype=dtype) for key in keys}
    except SafetensorError as error:
        raise ExperimentError(f"{path} is not a readable safetensors file: {error}") from None
    model.load_state_dict(from_official(state), assign=True)
    if config.licence:
        log.warning("%s", config.licence)
    return model


def licence_of(directory: Path) -> str | None:
    """The licence that an ImageBind folder states; None for another folder, and where it states none."""
    try:
        return _read_config(directory).licence
    except ExperimentError:
        return None


def write(directory: Path, config: ImageBindConfig, state: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors with tensors by their published names."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    # replaced as a whole: another model may have the old file mapped
    partial = directory / (WEIGHTS_FILE + ".part")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(directory / WEIGHTS_FILE)
    described = {"model_type": "imagebind", **config.model_dump(mode="json")}
    (directory / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _read_config(directory: Path) -> ImageBindConfig:
    path = directory / CONFIG_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        kind = described.pop("model_type", "imagebind")
        if kind != "imagebind":
            raise ExperimentError(
                f"{path} is of a {kind} model, no ImageBind; give a model of transformers by modality, as in "
                "encoder: {image: FOLDER}"
            )
        return validated(ImageBindConfig, described, str(path))
    except FileNotFoundError:
        raise ExperimentError(
            f"{path} is missing; an ImageBind folder holds it beside {WEIGHTS_FILE}, and a model of transformers is named by "
            "modality, as in encoder: {image: FOLDER}"
        ) from None
    except (json.JSONDecodeError, AttributeError) as error:
        raise ExperimentError(f"{path} is no ImageBind configuration: {error}") from None


def _is_adapter(key: str) -> bool:
    return any(part.startswith("lora_") for part in key.split("."))


def _unwrap(key: str) -> str:
    """Undo the names that PEFT puts around a wrapped trunk and its layers."""
    return key.replace(".base_model.model.", ".").replace(".base_layer.", ".")


def _renames(modality: str) -> dict[str, str]:
    """Ours -> published, for names in which the two differ, apart from the trunk's attention."""
    stem = {"image": "rgbt_stem", "audio": "rgbt_stem", "thermal": "rgbt_stem"}.get(
        modality, f"{modality}_stem"
    )
    index, last = {"text": ("proj.0", "proj.1"), "imu": ("0", "3")}.get(modality, ("0", "2"))
    names = {
        "heads.norm": index,
        "heads.proj": last,
        "scales.log_logit_scale": "1.log_logit_scale",
        "trunks.o_proj": "out_proj",
    }
    if modality != "text":
        names["stems.proj"] = f"{stem}.proj.1" if modality == "image" else f"{stem}.proj"
        names["stems.norm_layer"] = f"{stem}.norm_layer"
        if modality != "imu":
            names["stems.pos_embed"] = "pos_embedding_helper.pos_embed"
    return names


def _official_name(key: str) -> str:
    part, modality, rest = key.split(".", 2)
    for ours, official in _renames(modality).items():
        where, _, name = ours.partition(".")
        if part == where and part == "trunks":
            rest = rest.replace(f".{name}.", f".{official}.")
        elif part == where and (rest == name or rest.startswith(name + ".")):
            rest = official + rest[len(name) :]
            break
    return f"{_PARTS[part]}.{OFFICIAL_KEYS[modality]}.{rest}"


def _our_name(key: str) -> str:
    prefix, official_modality, rest = key.split(".", 2)
    part = next(ours for ours, official in _PARTS.items() if official == prefix)
    modality = _OUR_KEYS[official_modality]
    for ours, official in _renames(modality).items():
        where, _, name = ours.partition(".")
        if part == where and part == "trunks":
            rest = rest.replace(f".{official}.", f".{name}.")
        elif part == where and (rest == official or rest.startswith(official + ".")):
            rest = name + rest[len(official) :]
            break
    return f"{part}.{modality}.{rest}"
