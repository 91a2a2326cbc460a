"""Conversion of the published ImageBind checkpoint to a folder of ours; the one place that reads PyTorch's own format."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.new_folder import check_free, new_folder
from fedloom.models.imagebind.checkpoint import check_keys, log, official_shapes, write
from fedloom.models.imagebind.config import OFFICIAL_KEYS, ImageBindConfig
from fedloom.models.imagebind.imagebind import ImageBind

OFFICIAL_LICENCE = (
    "ImageBind weights (c) Meta Platforms, Inc.: CC BY-NC 4.0 by the project's page, CC BY-NC-SA 4.0 by its LICENSE file; "
    "non-commercial research use only, and adapters trained on them are shared alike"
)
MASK = "modality_preprocessors.text.mask"
"""The text trunk's causal mask, the one published tensor that holds infinities."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def convert_official(
    checkpoint: Path,
    directory: Path,
    config: ImageBindConfig | None = None,
    licence: str | None = OFFICIAL_LICENCE,
    modalities: Sequence[str] | None = None,
) -> None:
    """Turn the published imagebind_huge.pth, or a file of its layout, into a new folder for `from_pretrained`.

    The file is read with `weights_only=True`: tensors and nothing that can run. `modalities`: the encoders to keep (None: all).

    Raises:
        ExperimentError: the file is missing or broken; its keys, shapes or dtypes differ from `config` (default: huge), or a
            number is not finite; a modality is unknown; the folder is not empty.

    """
    config = (config or ImageBindConfig.huge()).model_copy(update={"licence": licence})
    kept = _chosen(config, modalities)
    if not checkpoint.is_file():
        raise ExperimentError(
            f"{checkpoint} is missing; download imagebind_huge.pth yourself and accept its licence"
        )
    check_free(directory)
    if licence:
        log.warning("%s", licence)
    with new_folder(directory) as part:
        state = _read(checkpoint)
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        check_keys(shapes, official_shapes(ImageBind, config), str(checkpoint))
        parts = {OFFICIAL_KEYS[name] for name in kept.modalities}
        state = {key: value for key, value in state.items() if key.split(".")[1] in parts}
        _check_values(state, checkpoint)
        write(part, kept, state)
        if licence:
            (part / "LICENCE.txt").write_text(licence + "\n", encoding="utf-8")


def _chosen(config: ImageBindConfig, modalities: Sequence[str] | None) -> ImageBindConfig:
    """The configuration of these modalities. Raises ExperimentError for an unknown one, and for none."""
    names = list(config.modalities) if modalities is None else list(dict.fromkeys(modalities))
    if unknown := [name for name in names if name not in config.modalities]:
        raise ExperimentError(
            f"ImageBind has no modality {unknown[0]!r}; it has {', '.join(config.modalities)}"
        )
    if not names:
        raise ExperimentError(f"no modality is named; ImageBind has {', '.join(config.modalities)}")
    held = {name: part for name, part in config.modalities.items() if name in names}
    return config.model_copy(update={"modalities": held})


def _read(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises ExperimentError for a broken file, and for one that holds anything else."""
    try:
        state: Any = torch.load(
            checkpoint, map_location="cpu", weights_only=True, mmap=is_zipfile(checkpoint)
        )
    except pickle.UnpicklingError as error:
        raise ExperimentError(
            f"{checkpoint} holds more than tensors, or is broken; nothing in it was run. Download imagebind_huge.pth anew"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise ExperimentError(
            f"{checkpoint} is no readable PyTorch file; download imagebind_huge.pth anew"
        ) from error
    named = isinstance(state, dict) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    )
    if not named:
        raise ExperimentError(f"{checkpoint} should hold tensors by name, as imagebind_huge.pth does")
    return {str(key): value for key, value in state.items()}


def _check_values(state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Raise ExperimentError for a tensor of another dtype, and for numbers that are not finite."""
    for key, value in state.items():
        if value.dtype not in DTYPES:
            raise ExperimentError(
                f"{checkpoint}: {key} has numbers of the type {value.dtype}; it should have {DTYPES[0]}"
            )
        if key != MASK and not torch.isfinite(value).all():
            raise ExperimentError(f"{checkpoint}: {key} holds numbers that are not finite")
