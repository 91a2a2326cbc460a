"""Projectors from disk: of a finished run, of a foundation, or of a safetensors file with names of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.models.settings import ProjectorFile

FILE = "projector.safetensors"
FIELD = "model.projector_from"


def take_projector(projector: nn.Module, source: Path | ProjectorFile) -> None:
    """Replace the weights of `projector`. Raises ExperimentError for other names, other shapes or values not finite."""
    tensors, path = _read(source)
    expected = projector.state_dict()
    for name, like in expected.items():
        if name not in tensors:
            raise ExperimentError(
                f"{FIELD}: {path} has no {name} for this model's projector; it has {', '.join(sorted(tensors))}; "
                "give both the same model.projector, model.encoder and model.llm, or map the names"
            )
        if tensors[name].shape != like.shape:
            raise ExperimentError(
                f"{FIELD}: {name} of {path} has other sizes, {tuple(tensors[name].shape)}, than this model's projector, "
                f"{tuple(like.shape)}"
            )
        if not torch.isfinite(tensors[name]).all():
            raise ExperimentError(f"{FIELD}: {name} of {path} holds numbers that are not finite")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ExperimentError(
            f"{FIELD}: {path} has {unknown[0]}, and this model's projector has no such layer; it has {', '.join(expected)}"
        )
    projector.load_state_dict(tensors)


def _read(source: Path | ProjectorFile) -> tuple[dict[str, Tensor], Path]:
    if isinstance(source, ProjectorFile):
        return _mapped(_tensors(source.file), source.names, source.file), source.file
    if source.is_file():
        return _tensors(source), source
    for path in (source / "model" / FILE, source / FILE):
        if path.is_file():
            return {_place(name): tensor for name, tensor in _tensors(path).items()}, path
    raise ExperimentError(
        f"{FIELD}: {source / 'model' / FILE} is missing; name the folder of a run that has ended, a foundation or a "
        "safetensors file"
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ExperimentError(f"{FIELD}: {path} is no readable safetensors file: {error}") from error


def _mapped(tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]], path: Path) -> dict[str, Tensor]:
    """The tensors that `names` lists, by their new names; all where it lists none."""
    if missing := [old for old, _ in names if old not in tensors]:
        raise ExperimentError(f"{FIELD}: {path} has no {missing[0]}; it has {', '.join(sorted(tensors))}")
    return {new: tensors[old] for old, new in names} if names else dict(tensors)


def _place(name: str) -> str:
    """A run's travelling name (`projector/weight`, `projector.image/weight`) as the module's own."""
    group, _, place = name.rpartition("/")
    modality = group.removeprefix("projector").removeprefix(".")
    return f"{modality}.{place}" if modality else place
