"""The text of a first experiment: YAML with a comment on each choice."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom.data.inspection.inspect import Inspection
from fedloom.experiment.starter.choices import Choices, use_of
from fedloom.models.known_models import Model, suitable

ROUNDS = 5
_SHOWN_COLUMNS = 12
_BY_CLASS, _IN_WORDS = (
    ("promptfl", "pfedmma", "fedpgp"),
    ("fedavg-lora", "feda2-lora", "fedprox", "local-only"),
)
"""Methods to try, for pictures by class and for answers in words."""
_PLAIN = re.compile(r"[A-Za-z][\w./-]*( [A-Za-z][\w./-]*)*", re.ASCII)
_RESERVED = ("true", "false", "yes", "no", "on", "off", "null", "none", "y", "n")
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
"""Characters that JSON writes as they are, and that YAML refuses or takes for a line's end."""
_PARTITIONS = {
    "labeldir": "a Dirichlet draw for each class; few-shot: classes that clients do not share (docs/your-data.md)",
    "domains": "every client holds one domain",
}


def text(seen: Inspection, choices: Choices, file: Path, memory: float) -> str:
    """The file's text. `memory`: that of the device in 10^9 bytes."""
    name = _value(str(file))
    known = _BY_CLASS if seen.layout.source == "classes" else _IN_WORDS
    others = [name for name in known if name != choices.method]
    lines = [
        f"# fedloom run {name} --out runs/mine      (before it, fedloom data {name} shows clients and samples)",
        f"name: {_value(file.stem)}",
        f"description: {_value(f'{seen.layout.form}, {seen.samples} samples')}",
        f"rounds: {ROUNDS}",
        f"method: {choices.method}   # others: {', '.join(others)}; fedloom methods explains them",
        *_data(seen, choices),
        *_model(seen, choices, memory),
        f"training: {_value(choices.training)}   # of a client in one round",
        f"evaluation: {_value(choices.evaluation)}   # on test samples, before the first round and every {ROUNDS}",
    ]
    return "\n".join(lines) + "\n"


def _data(seen: Inspection, choices: Choices) -> list[str]:
    data = choices.data
    lines = ["data:", f"  source: {data['source']}   # {seen.layout.form}", f"  path: {_value(data['path'])}"]
    if "dataset" in data:
        lines.append(f"  dataset: {_value(data['dataset'])}   # any name of yours")
    if "columns" in data:
        lines.append("  columns:   # all that are read, so that nothing is guessed")
        lines += [f"    {part}: {_value(column)}" for part, column in data["columns"].items()]
    if seen.found.others:
        listed = [f"{_value(column)} ({n})" for column, n in seen.found.others.items()][:_SHOWN_COLUMNS]
        more = len(seen.found.others) - len(listed)
        lines.append(
            f"  # not read, with their filled cells: {', '.join(listed)}{f' and {more} more' if more else ''}"
        )
    comments = {
        "question": "asked about every sample",
        "clients": "the samples are dealt to so many",
        "test_share": "of each client's samples, where the data state no split",
        "skip_bad": f"{len(seen.faults)} of the files cannot be used",
        "max_skipped": "share of samples that may be left out",
        "partition": _PARTITIONS.get(data.get("partition", {}).get("kind"), ""),
    }
    lines += [f"  {name}: {_value(data[name])}   # {says}" for name, says in comments.items() if name in data]
    if "client" in data.get("columns", {}):
        lines.append("  # clients: 4   deals the samples at random instead; leave columns.client out then")
    if any((measure.longest or 0) > 30 for measure in seen.media.values()):
        lines.append("  # media: {window: 30}   cuts recordings into windows of at most so many seconds")
    return lines


def _model(seen: Inspection, choices: Choices, memory: float) -> list[str]:
    lines = [f"model: {_value(choices.model)}"]
    if str(next(iter(choices.model.values()))).startswith("tiny-"):
        lines[0] += "   # shipped and tiny: shows that all runs, and knows little of the world"
    known = suitable(seen.modalities, use_of(seen))
    if known:
        lines.append(
            f"# in its place, with a rough guess of the memory for training in float32, where this machine has {memory:.0f} GB; "
            "fedloom plan measures it:"
        )
    best = max((m.gigabytes for m in known if m.gigabytes <= memory), default=None)
    for model in known:
        lines.append(
            f"# model: {_value(model.settings)}   # {model.gigabytes:.1f} GB{_remark(model, memory, best)}"
        )
    return lines


def _remark(model: Model, memory: float, best: float | None) -> str:
    if model.gigabytes > memory:
        half = model.gigabytes / 2 <= memory
        return ", too much; half of it with engine.dtype: bfloat16" if half else ", too much for this machine"
    parts = [
        ", in the cache of Hugging Face" if _is_cached(model) else "",
        ", the largest that fits" if model.gigabytes == best else "",
    ]
    return "".join(parts)


def _is_cached(model: Model) -> bool:
    """Whether all parts of a model were downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    names = [n for v in model.settings.values() for n in (v.values() if isinstance(v, Mapping) else [v])]
    return all(isinstance(try_to_load_from_cache(n, "config.json"), str) for n in names if isinstance(n, str))


def _value(value: Any) -> str:
    """A value on one line of YAML; any text that YAML might take for something else is quoted."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
        quoted = json.dumps(
            value, ensure_ascii=False
        )  # not ASCII: JSON writes an emoji as two halves, which YAML keeps apart
        return value if is_plain else _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
    return json.dumps(value)
