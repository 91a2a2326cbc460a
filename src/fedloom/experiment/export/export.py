"""Writes a finished run's model to a new folder, with a model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.new_folder import new_folder
from fedloom.core.payload import group_of
from fedloom.experiment.export import signature
from fedloom.experiment.export.card import Card, card_text
from fedloom.experiment.export.finished import read_finished
from fedloom.experiment.finished_run import load_as, model_folder
from fedloom.experiment.settings import Experiment
from fedloom.models.adapter_folder import LISTING, NOTE, PROMPTS, place_of, read_listing
from fedloom.models.lora.peft_files import CONFIG, read_json, write_json
from fedloom.models.lora.uniform import make_uniform
from fedloom.models.merged import stored_dtype
from fedloom.models.sources import hub_id
from fedloom.tasks.usage import adapters_in

Form = Literal["adapters", "uniform", "merged"]
"""adapters: as the run wrote them; uniform: one rank, alpha and plain scale; merged: the whole model."""
DType = Literal["float32", "bfloat16", "float16"]
OPTIONS: dict[Form, str] = {"uniform": "--uniform", "merged": "--merge"}


def export(
    run: Path,
    out: Path,
    *,
    client: str | None = None,
    form: Form = "adapters",
    dtype: DType | None = None,
    license: str | None = None,
) -> None:
    """Write the common model of a finished run, or that client's own, to the folder `out`, which appears whole or not at all.

    `dtype`: of the stored weights; None keeps the base's for a merged model, float32 for uniform adapters. `license`: that of the
    published model. A card that was edited by hand goes with the adapters that it was written for. Raises ExperimentError for a
    folder that is not empty, a run without a model, and a model that has no such form.
    """
    source = model_folder(run, client)
    finished = read_finished(run)
    experiment = finished.experiment
    if form != "adapters":
        _check(source, form)
    with new_folder(out) as part:
        if form == "merged":
            _merge(run, client, part, experiment, dtype)
        else:
            shutil.copytree(source, part, dirs_exist_ok=True, ignore=_personal(source))
            if form == "uniform":
                _make_uniform(run, client, part, dtype)
            _name_bases(part, experiment)
        if form != "adapters" or not signature.edited(part / NOTE):
            signature.write(part / NOTE, card_text(part, finished, Card(client, form, license)), force=True)


def _check(source: Path, form: Form) -> None:
    """Raise ExperimentError for a model that has no such form."""
    if (source / PROMPTS).is_file():
        raise ExperimentError(
            f"the client's model mixes two adapters by example, which {OPTIONS[form]} cannot express; leave it out, or export "
            "the common model without --client"
        )
    if not adapters_in(source):
        raise ExperimentError(f"the run trained no LoRA or VeRA adapters; leave {OPTIONS[form]} out")


def _personal(source: Path) -> Any:
    """The filter of `copytree` that leaves the clients' personal models out."""
    return lambda folder, names: ["clients"] if Path(folder) == source and "clients" in names else []


def _make_uniform(run: Path, client: str | None, part: Path, dtype: DType | None) -> None:
    """Rewrite every adapter; the base is loaded for VeRA alone, whose frozen pair depends on it."""
    listed = read_listing(part)
    prefix = f"{listed['base_model_prefix']}." if "base_model_prefix" in listed else ""
    groups = adapters_in(part)
    frozen: Mapping[str, Tensor] = {}
    if any(read_json(part / group / CONFIG).get("peft_type") == "VERA" for group in groups):
        frozen = load_as(run, client, device="cpu", compile=False, device_map=None).frozen
    for group in groups:
        own = {f"{prefix}{place_of(n)}": t for n, t in frozen.items() if group_of(n) == group}
        make_uniform(part / group, own, None if dtype is None else getattr(torch, dtype))
    (part / LISTING).unlink()  # it describes the run's own adapters, which fedloom reads


def _merge(run: Path, client: str | None, part: Path, experiment: Experiment, dtype: DType | None) -> None:
    """Write the whole model, its base loaded unquantised in the dtype in which it is stored; float16 in float32."""
    bases = experiment.task.bases(experiment.model)
    own = {name: stored_dtype(source) for name, source in bases.items()}
    model = load_as(
        run,
        client,
        foundation=experiment.setup.foundation.model_copy(update={"quantize": None}),
        device="cpu",
        compile=False,
        precision="float32" if torch.float16 in own.values() else "auto",
        device_map=None,
    )
    model.save_merged(part, own if dtype is None else dict.fromkeys(own, getattr(torch, dtype)))


def _name_bases(part: Path, experiment: Experiment) -> None:
    """Name the base in every adapter's configuration, where it has a Hugging Face id."""
    bases = experiment.task.bases(experiment.model)
    for config in part.rglob(CONFIG):
        group = config.relative_to(part).parts[0]
        source = bases.get(group, bases.get("", ""))
        if source and (known := hub_id(source)):
            write_json(config, read_json(config) | {"base_model_name_or_path": known})
