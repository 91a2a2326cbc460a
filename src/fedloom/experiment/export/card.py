"""The model card of a finished run: README.md with the front matter that the Hugging Face hub reads.

It names no client unless asked to, and no file and no path of this machine; data stand in it as counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import seal_of
from fedloom.experiment.export.card_facts import (
    clients_by_kind,
    clients_by_name,
    controls,
    figures,
    limits,
    metrics,
    privacy,
    settings,
)
from fedloom.experiment.export.finished import Finished
from fedloom.experiment.export.licences import licence
from fedloom.models.adapter_folder import MIXED, PROMPTS
from fedloom.models.lora.peft_files import CONFIG, read_json
from fedloom.models.sources import hub_id, public_name
from fedloom.tasks.usage import adapters_in

WHOLE = (
    "The adapters were trained beside a quantised base and merged into its whole weights, so that answers can differ a little "
    "from the run's own."
)
FORMS = {
    "adapters": "adapters for PEFT",
    "uniform": "adapters of one rank, one alpha and the plain scale lora_alpha / r for all layers",
    "merged": "the whole model, its adapters merged into the weights",
}
PAGE = "https://pypi.org/project/fedloom/"


@dataclass(frozen=True)
class Card:
    """A card's statements beyond the run itself."""

    client: str | None = None
    """The client whose personal model it describes; None for the common model."""
    form: str = "adapters"
    license: str | None = None
    """The hub's name of the licence under which the model is published."""
    names: bool = False
    """Whether clients are named."""


def card_text(folder: Path, run: Finished, card: Card) -> str:
    """The card of the model in `folder`. Raises ExperimentError for names of clients that the run kept apart."""
    experiment, summary = run.experiment, run.summary
    if card.names and experiment.privacy.sums:
        raise ExperimentError(
            "--clients: the run kept single clients apart by its privacy settings; leave their names out"
        )
    bases = experiment.task.bases(experiment.model)
    title = experiment.task.title.removeprefix("a ").removeprefix("an ")
    named = [*_section("Clients", _columns(clients_by_name(summary)))] if card.names else []
    control = controls(summary) if card.client is None else []
    lines = [
        *_front(folder, run, card, bases),
        f"# {title[:1].upper()}{title[1:]}, trained with {summary['title']}",
        "",
        f"{_whose(summary, card.client)} of a federated run of [fedloom]({PAGE}): {FORMS[card.form]}.",
        "",
        *_section("Load", [*_code(experiment.task.usage(experiment.model, folder)), "", *_whole(card)]),
        *(_section("Precision", [WHOLE]) if card.form == "merged" and experiment.model.quantize else []),
        *(_section("Two adapters", [MIXED.strip()]) if (folder / PROMPTS).is_file() else []),
        *_section("What is in it", _table(_contents(folder, bases))),
        *_section("Intended use and limits", [f"- {line}" for line in limits(run, card.client)]),
        *_section("Data", _table(clients_by_kind(summary, card.client))),
        *named,
        *_section("Training", _table(settings(experiment, summary))),
        *_section("Figures of the last round", _columns(figures(run, card.client))),
        *(_section("Controls", _columns(control)) if control else []),
        *_section("Privacy", privacy(experiment, summary)),
        *_section("Licence", _licences(card, bases)),
        *_section("Made with", _table(iter(sorted(run.versions.items())))),
        *_section("Checksums (SHA-256)", _table(_checksums(folder))),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _front(folder: Path, run: Finished, card: Card, bases: Mapping[str, str]) -> list[str]:
    """The YAML front matter; a base without a Hugging Face id is left out."""
    from huggingface_hub import ModelCardData

    merged, adapters = card.form == "merged", adapters_in(folder)
    library = "transformers" if merged and (folder / "config.json").is_file() else "fedloom"
    known = list(dict.fromkeys(i for source in bases.values() if (i := hub_id(source))))
    kinds = sorted({modality for row in run.summary["clients"] for modality in row["holds"]})
    fields: dict[str, Any] = {
        "license": card.license or _common_licence(bases),
        "library_name": "peft" if adapters and not merged else library,
        "tags": [
            *("fedloom", "federated-learning", run.summary["method"]),
            *(["lora"] if adapters and not merged else []),
            *kinds,
        ],
        "datasets": list(run.experiment.data.published) or None,
        "metrics": metrics(run, card.client) or None,
    }
    if known:
        fields |= {"base_model": known, "base_model_relation": "finetune" if merged else "adapter"}
    return ["---", ModelCardData(**fields).to_yaml().strip(), "---", ""]


def _common_licence(bases: Mapping[str, str]) -> str:
    """The one licence of all bases; other for several, unknown where a base states none."""
    found = {licence(source) for source in bases.values()} or {None}
    if None in found:
        return "unknown"
    return str(found.pop()) if len(found) == 1 else "other"


def _licences(card: Card, bases: Mapping[str, str]) -> list[str]:
    """The bases' licences, and whose task it is to state the model's own."""
    own = (
        f"This model is published under `{card.license}`."
        if card.license
        else "The licence of this model is to be stated by whoever publishes it; those of the base models hold for it, too."
    )
    rows = []
    for part, source in bases.items():
        known, name = hub_id(source), licence(source)
        where = f"; see https://huggingface.co/{known}" if known else ""
        rows.append(
            (
                f"base{f', {part}' if part else ''}",
                public_name(source),
                f"`{name}`" if name else f"unknown{where}",
            )
        )
    return [own, "", *_columns([("", "model", "licence"), *rows])] if rows else [own]


def _whose(summary: Mapping[str, Any], client: str | None) -> str:
    trained = sum(1 for row in summary["clients"] if row["train"])
    return (
        f"The common model of {trained} clients" if client is None else f"One of {trained} clients' own model"
    )


def _code(code: str) -> list[str]:
    return ["```python", code, "```"]


def _whole(card: Card) -> list[str]:
    """How fedloom itself loads the model, beside the run's folder."""
    own = ", client=NAME" if card.client is not None else ""
    return [
        f"Whoever has the run's folder loads the whole model by `fedloom.load(RUN{own})`, and asks it by `fedloom ask RUN`."
    ]


def _contents(folder: Path, bases: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every adapter with its shape and its base; every other part."""
    groups = adapters_in(folder)
    for group in groups:
        config = read_json(folder / group / CONFIG)
        shape = f"{config['peft_type']}, rank {config['r']}"
        shape += f", alpha {config['lora_alpha']:g}" if "lora_alpha" in config else ""
        base = bases.get(group) or bases.get(group.split(".")[0]) or bases.get("")
        yield f"`{group}/`", shape + (f", for {public_name(base)}" if base else "")
    for part in sorted(p for p in folder.iterdir() if p.name not in (*groups, "clients", "README.md")):
        yield f"`{part.name}{'/' if part.is_dir() else ''}`", ""


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    """The digest of every file of tensors but those of clients' own models below it."""
    for file in sorted(folder.rglob("*.safetensors")):
        name = file.relative_to(folder)
        if name.parts[0] != "clients":
            yield f"`{name.as_posix()}`", f"`{seal_of(file).digest}`"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _table(rows: Iterator[tuple[str, Any]]) -> list[str]:
    """A table of two columns without a header."""
    return _columns([("", ""), *rows])


def _columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table; the first row is its header."""
    cells = ["| " + " | ".join(str(c).replace("|", "/") for c in row) + " |" for row in rows]
    return [cells[0], "|" + "---|" * len(rows[0]), *cells[1:]]
