"""Classifiers on disk: a checkpoint of any kind with a head that fits the task, and folders of trained adapters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.payload import group_of
from fedloom.core.streams import stream_seed, torch_stream
from fedloom.models.adapter_folder import (
    PROMPTS,
    place_of,
    read_groups,
    read_listing,
    save_groups,
    write_listing,
    write_note,
)
from fedloom.models.lora import peft_files as files
from fedloom.models.lora.layers import PREFIX, LoRA
from fedloom.models.quantize import outside
from fedloom.models.weights import Weights

_PLAIN = {"head": "head.safetensors", "anchors": PROMPTS}
"""Files of the groups outside adapters; a client without prompt states has no anchors."""


def load_checkpoint(
    source: str | Path, labels: Sequence[str], seed: int, weights: Weights | None = None
) -> tuple[Any, Any]:
    """(sequence classifier, its own tokenizer); body in float32 on the CPU unless `weights`, head in float32.

    The checkpoint's head is kept if it has these labels in this order, or as many that it does not name; else, and
    where it has none (a masked LM), the head is drawn afresh from the stream of `seed`. Raises ExperimentError.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    named = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
    named["label2id"] = {label: i for i, label in enumerate(labels)}
    try:
        kept = _labels_of(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        with quiet_hf(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "classifier"))  # for other tensors that the checkpoint lacks
            model, report = (weights or Weights()).read(
                AutoModelForSequenceClassification,
                source,
                "model.classifier",
                llm=True,
                whole=_heads_of(source, named),
                trained=lambda m: [part for n, part in m.named_children() if n != m.base_model_prefix],
                ignore_mismatched_sizes=True,
                **named,
            )
    except (OSError, SafetensorError, ValueError, KeyError, ImportError) as error:
        raise ExperimentError(f"model.classifier: {source} cannot be loaded: {reason(error)}") from error
    lacking = {str(name) for name in report["missing_keys"]}
    lacking |= {str(entry[0]) for entry in report["mismatched_keys"]}
    outside = {n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")}
    generic = {f"LABEL_{i}" for i in range(len(labels))}
    ours = [label.casefold() for label in labels]
    if lacking & outside or (set(kept) != generic and [k.casefold() for k in kept] != ours):
        fresh_head(model, seed)
    return model, tokenizer


def _heads_of(source: str | Path, named: Mapping[str, Any]) -> list[str]:
    """The modules beside a classifier's body."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **named)
    with torch.device("meta"):
        shape = AutoModelForSequenceClassification.from_config(config)
    return outside(shape, shape.base_model_prefix)


def _labels_of(source: str | Path) -> list[str]:
    """The label names in a checkpoint's configuration, in the order of their numbers."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return [str(config.id2label[i]) for i in sorted(config.id2label)]


@torch.no_grad()
def fresh_head(model: Any, seed: int) -> None:
    """Linear layers outside the base model anew: N(0, initializer_range^2) from the stream of (seed, name), bias 0."""
    for name, module in model.named_modules():
        inside = name == model.base_model_prefix or name.startswith(f"{model.base_model_prefix}.")
        if isinstance(module, nn.Linear) and not inside:
            stream = torch_stream(seed, "classifier", "head", name)
            weight = torch.randn(module.weight.shape, generator=stream) * model.config.initializer_range
            module.weight.copy_(weight)
            if module.bias is not None:
                module.bias.zero_()


def save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    specs: Mapping[str, LoRA],
    layers: Mapping[str, Any],
    listed: Mapping[str, Any],
) -> None:
    """Write each adapter in PEFT's format, the head by its own parameter names, and `listed` to fedloom.json.

    With a `base_model_prefix` in `listed` the adapter is one of a whole sequence classifier; PEFT's task SEQ_CLS reads the head
    beside it, so a copy is written there, too. Without, it is one of the encoder's trunk alone. `layers`: PEFT's layers by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, dict[str, Tensor]] = {group: {} for group in _PLAIN}
    for name in sorted(tensors):
        if (group := group_of(name)) in _PLAIN:
            plain[group][place_of(name)] = tensors[name].detach().cpu().contiguous()
    for group, own in plain.items():
        if own:
            save_file(own, folder / _PLAIN[group])
    if plain["anchors"]:
        write_note(folder)
    prefix = _prefix(listed)
    tasks = dict.fromkeys(specs, "SEQ_CLS") if prefix else None
    save_groups(folder, tensors, specs, layers, tasks=tasks, prefix=prefix)
    for group in specs:
        for config in (folder / group).rglob(files.CONFIG) if prefix else ():
            _add_head(config.parent, plain["head"])
    write_listing(folder, {"adapters": sorted(specs), "head": _PLAIN["head"], **listed})


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors that `save` wrote, by their travelling names."""
    listed = read_listing(folder)
    tensors: dict[str, Tensor] = {}
    for group, name in _PLAIN.items():
        if (folder / name).is_file():
            tensors |= {f"{group}/{n}": t for n, t in load_file(folder / name).items()}
    return tensors | read_groups(folder, listed["adapters"], _prefix(listed))


def _prefix(listed: Mapping[str, Any]) -> str:
    """The place of the body in the whole classifier, with a dot; empty for an encoder's trunk."""
    return f"{listed['base_model_prefix']}." if "base_model_prefix" in listed else ""


def _add_head(folder: Path, head: Mapping[str, Tensor]) -> None:
    """Add the head to a PEFT folder."""
    config, tensors = files.contents(folder)
    config["modules_to_save"] = sorted({n.split(".")[0] for n in head})
    files.write(folder, config, tensors | {f"{PREFIX}{name}": t for name, t in head.items()})
