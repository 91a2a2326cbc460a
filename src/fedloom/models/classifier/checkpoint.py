"""Classifiers on disk: a checkpoint of any kind with a head that fits the task, and folders of trained adapters."""

import json
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
from fedloom.models.lora import peft_files as files
from fedloom.models.lora.layers import PREFIX, LoRA

_PLAIN = {"head": "head.safetensors", "anchors": "anchors.safetensors"}
"""Files of the groups outside adapters; a client without prompt states has no anchors."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_checkpoint(source: str | Path, labels: Sequence[str], seed: int) -> tuple[Any, Any]:
    """(sequence classifier in float32, its own tokenizer); reads no pickle and runs no remote code.

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
            model, report = AutoModelForSequenceClassification.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **named,
            )
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ExperimentError(f"model.classifier: {source} cannot be loaded: {reason(error)}") from error
    lacking = {str(name) for name in report["missing_keys"]}
    lacking |= {str(entry[0]) for entry in report["mismatched_keys"]}
    outside = {n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")}
    generic = {f"LABEL_{i}" for i in range(len(labels))}
    ours = [label.casefold() for label in labels]
    if lacking & outside or (set(kept) != generic and [k.casefold() for k in kept] != ours):
        fresh_head(model, seed)
    return model, tokenizer


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
    folder: Path, tensors: Mapping[str, Tensor], specs: Mapping[str, LoRA], listed: Mapping[str, Any]
) -> None:
    """Write each adapter in PEFT's format, the head by its own parameter names, and `listed` to fedloom.json.

    With a `base_model_prefix` in `listed` the adapter is one of a whole sequence classifier; PEFT's task SEQ_CLS reads the head
    beside it, so a copy is written there, too. Without, it is one of the encoder's trunk alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, dict[str, Tensor]] = {group: {} for group in _PLAIN}
    for name in sorted(tensors):
        if (group := group_of(name)) in _PLAIN:
            plain[group][_place(name)] = tensors[name].detach().cpu().contiguous()
    for group, own in plain.items():
        if own:
            save_file(own, folder / _PLAIN[group])
    prefix = _prefix(listed)
    for group, spec in specs.items():
        adapter = {f"{prefix}{_place(n)}": t for n, t in tensors.items() if group_of(n) == group}
        files.save(folder / group, adapter, spec, "SEQ_CLS" if prefix else None)
        for config in (folder / group).rglob("adapter_config.json") if prefix else ():
            _add_head(config.parent, plain["head"])
    described = {"format": 1, "adapters": sorted(specs), "head": _PLAIN["head"], **listed}
    _write_json(folder / "fedloom.json", described)


def listed_in(folder: Path) -> dict[str, Any]:
    """The content of fedloom.json in a folder that `save` wrote."""
    listed: dict[str, Any] = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
    return listed


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors that `save` wrote, by their travelling names."""
    listed = listed_in(folder)
    tensors: dict[str, Tensor] = {}
    for group, name in _PLAIN.items():
        if (folder / name).is_file():
            tensors |= {f"{group}/{n}": t for n, t in load_file(folder / name).items()}
    prefix = _prefix(listed)
    for group in listed["adapters"]:
        tensors |= {f"{group}/{n.removeprefix(prefix)}": t for n, t in files.read(folder / group).items()}
    return tensors


def _prefix(listed: Mapping[str, Any]) -> str:
    """The place of the body in the whole classifier, with a dot; empty for an encoder's trunk."""
    return f"{listed['base_model_prefix']}." if "base_model_prefix" in listed else ""


def _add_head(folder: Path, head: Mapping[str, Tensor]) -> None:
    """Add the head to a PEFT folder."""
    both = load_file(folder / _WEIGHTS) | {f"{PREFIX}{name}": t for name, t in head.items()}
    save_file(dict(sorted(both.items())), folder / _WEIGHTS, {"format": "pt"})
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    _write_json(folder / _CONFIG, config | {"modules_to_save": sorted({n.split(".")[0] for n in head})})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _place(name: str) -> str:
    """The part of a travelling name after its group."""
    return name.split("/", 1)[1]
