"""Conversion of the published ImageBind checkpoint to a folder of ours; the one place that reads PyTorch's own format."""

from pathlib import Path

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind.checkpoint import check_keys, log, official_shapes, write
from fedloom.models.imagebind.config import ImageBindConfig
from fedloom.models.imagebind.imagebind import ImageBind

OFFICIAL_LICENCE = (
    "ImageBind weights: CC BY-NC-SA 4.0 (c) Meta Platforms, Inc.; non-commercial research use only, "
    "and adapters trained on them are shared alike"
)


def convert_official(
    checkpoint: Path,
    directory: Path,
    config: ImageBindConfig | None = None,
    licence: str | None = OFFICIAL_LICENCE,
) -> None:
    """Turn the published imagebind_huge.pth, or a file of its layout, into a folder for `from_pretrained`.

    The one place that reads PyTorch's own format, with `weights_only=True`: tensors and nothing that can run.

    Raises:
        ExperimentError: the file is missing, or its keys or shapes differ from `config` (default: huge).

    """
    config = (config or ImageBindConfig.huge()).model_copy(update={"licence": licence})
    if not checkpoint.is_file():
        raise ExperimentError(
            f"{checkpoint} is missing; download imagebind_huge.pth yourself and accept its licence"
        )
    state: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    check_keys(
        {key: tuple(value.shape) for key, value in state.items()},
        official_shapes(ImageBind, config),
        str(checkpoint),
    )
    write(directory, config, state)
    if licence:
        log.warning("%s", licence)
