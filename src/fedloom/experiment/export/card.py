"""The model card of an exported folder: README.md with the front matter that the Hugging Face hub reads.

It names no client, no file and no path of this machine; data stand in it as counts.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedloom.experiment.settings import Experiment
from fedloom.models.adapter_folder import MIXED, NOTE, PROMPTS
from fedloom.models.imagebind.checkpoint import licence_of
from fedloom.models.lora.peft_files import CONFIG, read_json
from fedloom.models.sources import hub_id, public_name
from fedloom.tasks.usage import adapters_in

LICENCE = "to be stated by whoever publishes this model; the licences of the base models hold for it, too"
WHOLE = (
    "The adapters were trained beside a quantised base and merged into its whole weights, so that answers can differ a little "
    "from the run's own."
)
FORMS = {
    "adapters": "adapters for PEFT",
    "uniform": "adapters of one rank, one alpha and the plain scale lora_alpha / r for all layers",
    "merged": "the whole model, its adapters merged into the weights",
}


def write_card(
    folder: Path, experiment: Experiment, summary: Mapping[str, Any], client: str | None, form: str
) -> None:
    """Write README.md for the exported files in `folder`."""
    bases = experiment.task.bases(experiment.model)
    title = experiment.task.title.removeprefix("a ")
    lines = [
        *_front(folder, bases, form),
        f"# {title[:1].upper()}{title[1:]}, trained with {summary['title']}",
        "",
        f"{_whose(summary, client)} of a federated run of [fedloom](https://pypi.org/project/fedloom/): {FORMS[form]}.",
        "",
        *_section("Load", ["```python", experiment.task.usage(experiment.model, folder), "```"]),
        *(_section("Precision", [WHOLE]) if form == "merged" and experiment.model.quantize else []),
        *(_section("Two adapters", [MIXED.strip()]) if (folder / PROMPTS).is_file() else []),
        *_section("What is in it", _table(_contents(folder, bases))),
        *_section("Training", _table(_settings(experiment, summary))),
        *_section("Data", _table(_data(summary, client))),
        *_section("Figures of the last round", _table(_figures(summary, client))),
        *_section("Licence", [LICENCE.capitalize() + ".", *_notices(bases)]),
    ]
    (folder / NOTE).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _front(folder: Path, bases: Mapping[str, str], form: str) -> list[str]:
    """The YAML front matter; a base without a Hugging Face id is left out."""
    plain = form == "merged" and (folder / "config.json").is_file()
    fields: dict[str, Any] = {"library_name": "transformers" if plain else "fedloom"}
    if form != "merged" and adapters_in(folder):
        fields["library_name"] = "peft"
    if known := [i for source in bases.values() if (i := hub_id(source))]:
        fields["base_model"] = list(dict.fromkeys(known))
        fields["base_model_relation"] = "finetune" if form == "merged" else "adapter"
    fields["tags"] = ["fedloom", "federated-learning", *(["lora"] if form != "merged" else [])]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).strip()
    return ["---", text, f"# license: {LICENCE}", "---", ""]


def _whose(summary: Mapping[str, Any], client: str | None) -> str:
    trained = sum(1 for row in summary["clients"] if row["train"])
    return (
        f"The common model of {trained} clients" if client is None else f"One of {trained} clients' own model"
    )


def _contents(folder: Path, bases: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every adapter with its shape and its base; every other part."""
    for group in adapters_in(folder):
        config = read_json(folder / group / CONFIG)
        shape = f"{config['peft_type']}, rank {config['r']}"
        shape += f", alpha {config['lora_alpha']:g}" if "lora_alpha" in config else ""
        base = bases.get(group) or bases.get(group.split(".")[0]) or bases.get("")
        yield f"`{group}/`", shape + (f", for {public_name(base)}" if base else "")
    for part in sorted(p for p in folder.iterdir() if p.name not in adapters_in(folder)):
        yield f"`{part.name}{'/' if part.is_dir() else ''}`", ""


def _settings(experiment: Experiment, summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    method, training = experiment.method, experiment.training
    yield "method", f"{summary['title']} ({method.paper})"
    for name, value in sorted(method.model_dump(mode="json", exclude_defaults=True).items()):
        yield f"method.{name}", value
    yield "rounds", summary["rounds"]
    yield "clients asked in a round", f"{experiment.cohort.fraction:.0%}"
    yield (
        "status",
        "complete" if summary["status"] == "complete" else "the run's own report says what was amiss",
    )
    for name in ("optimizer", "lr", "batch_size", *(("steps",) if training.steps else ("epochs",))):
        yield f"training.{name}", getattr(training, name)
    yield "trained parameters", f"{summary['trainable_parameters']:,}"
    yield "shared parameters", f"{summary['shared_parameters']:,}"
    yield "seed", summary["seed"]
    for part, source in experiment.task.bases(experiment.model).items():
        yield f"base{f', {part}' if part else ''}", public_name(source)
    if (bits := experiment.model.quantize) is not None:
        yield "base during training", f"quantised to {bits.replace('bit', ' bits')}"
    for name, value in sorted((summary["privacy"] or {}).items()):
        yield f"privacy.{name}", value


def _data(summary: Mapping[str, Any], client: str | None) -> Iterator[tuple[str, Any]]:
    """Counts of clients and samples, by the modalities that a client holds."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in summary["clients"]:
        if client is None or row["client"] == client:
            kinds.setdefault(" and ".join(row["holds"]) or "text", []).append(row)
    for kind, rows in sorted(kinds.items()):
        train, test = (sum(row[part] for row in rows) for part in ("train", "test"))
        yield f"clients with {kind}", f"{len(rows)}, with {train} training and {test} test samples"


def _figures(summary: Mapping[str, Any], client: str | None) -> Iterator[tuple[str, str]]:
    """Every figure but those of single layers, and those that bear a client's name."""
    rows = {row["client"]: row["metrics"] for row in summary["clients"]}
    metrics = summary["metrics"] if client is None else rows.get(client, {})
    for name, value in sorted(metrics.items()):
        parts = name.split("/")
        if (
            isinstance(value, int | float)
            and math.isfinite(value)
            and parts[0] != "layer"
            and not rows.keys() & {*parts}
        ):
            yield f"`{name}`", f"{value:.4g}"


def _notices(bases: Mapping[str, str]) -> list[str]:
    """The licences that the bases' folders state."""
    stated = {text for source in bases.values() if (text := licence_of(Path(source)))}
    return [line for text in sorted(stated) for line in ("", text)]


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _table(rows: Iterator[tuple[str, Any]]) -> list[str]:
    cells = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows]
    return ["| | |", "|---|---|", *cells]
