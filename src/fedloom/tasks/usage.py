"""Python code that loads an exported folder, for its README."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from fedloom.models.adapter_folder import PROMPTS
from fedloom.models.lora.peft_files import CONFIG, SECOND, read_json


def adapters_in(folder: Path) -> list[str]:
    """The names of the PEFT folders in a folder."""
    return sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))


def tensors_code(folder: Path) -> str:
    """Code that reads the files of tensors."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors"))
    return "from safetensors.torch import load_file\n\n" + "\n".join(
        f'tensors = load_file("{f}")' for f in files
    )


def native_code(base: str, folder: Path) -> str:
    """Code for a native model with adapters: the projectors' tensors, then PEFT."""
    files = sorted(p.name for p in folder.glob("projector*.safetensors"))
    lines = ["from peft import PeftModel"]
    lines += ["from safetensors.torch import load_file"] if files else []
    lines += ["from transformers import AutoModelForMultimodalLM", ""]
    lines += [f'model = AutoModelForMultimodalLM.from_pretrained("{base}")']
    lines += [f'model.load_state_dict(load_file("{file}"), strict=False)' for file in files]
    return "\n".join([*lines, *_peft(folder, adapters_in(folder))])


def llm_code(base: str, folder: Path) -> str:
    """Code for the language model of an assembled model with adapters; of the files' tensors where it has none."""
    if "llm" not in adapters_in(folder):
        return tensors_code(folder)
    return "\n".join(
        [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("{base}")',
            *_peft(folder, ["llm"]),
        ]
    )


def classifier_code(base: str, folder: Path) -> str:
    """Code for a text classifier with an adapter and its head."""
    with safe_open(folder / "head.safetensors", framework="pt") as file:
        # the last layer gives a number for each label
        labels = [file.get_slice(n).get_shape()[0] for n in sorted(file.keys())][-1]
    return "\n".join(
        [
            "from peft import PeftModel",
            "from transformers import AutoModelForSequenceClassification",
            "",
            f'model = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels={labels})',
            *_peft(folder, adapters_in(folder)),
        ]
    )


def whole_code(folder: Path) -> str:
    """Code for a whole model of transformers."""
    kind = read_json(folder / "config.json")["architectures"][0]
    reader = "AutoProcessor" if any(folder.glob("*processor_config.json")) else "AutoTokenizer"
    return (
        f"from transformers import {reader}, {kind}\n\n"
        f'model = {kind}.from_pretrained(".")\nreader = {reader}.from_pretrained(".")'
    )


def whole_mllm_code() -> str:
    """Code for an assembled model: its language model in transformers, and all of it in fedloom."""
    return (
        "from transformers import AutoModelForCausalLM\n\nfrom fedloom.models.mllm.mllm import MLLM\n\n"
        'llm = AutoModelForCausalLM.from_pretrained("llm")\nmodel = MLLM.from_pretrained(".")'
    )


def _peft(folder: Path, groups: Sequence[str]) -> list[str]:
    """The lines that put PEFT's adapters on `model`; a second adapter counts in full unless it is mixed by example."""
    named = {group.replace(".", "_"): group for group in groups}
    if not (folder / PROMPTS).is_file():
        named |= {
            f"{n}_{SECOND}": f"{g}/{SECOND}" for n, g in named.items() if (folder / g / SECOND).is_dir()
        }
    if not named:
        return []
    (first, place), *others = named.items()
    lines = [f'model = PeftModel.from_pretrained(model, "{place}", adapter_name="{first}")']
    lines += [f'model.load_adapter("{place}", adapter_name="{name}")' for name, place in others]
    if others:
        lines.append(f"model.base_model.set_adapter({list(named)!r})".replace("'", '"'))
    return lines
