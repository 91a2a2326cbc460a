"""A model card's facts about a run: data, settings, figures, controls, privacy, limits."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedloom.experiment.export.finished import Finished
from fedloom.experiment.report.units import show, unit_of
from fedloom.experiment.settings import Experiment
from fedloom.models.load import shipped
from fedloom.models.sources import public_name
from fedloom.privacy.differential.settings import DP, QuantileClip
from fedloom.tasks.metrics.metric import metric_of

HUB_METRICS = {"rouge_l": "rouge", "sentence_bleu": "bleu", "bertscore_f": "bertscore", "macro_f1": "f1"}
"""Names of metrics on the hub, where they are not ours."""


def clients_by_kind(summary: Mapping[str, Any], client: str | None) -> Iterator[tuple[str, str]]:
    """Counts of clients and samples, by the modalities that a client holds."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in summary["clients"]:
        if client is None or row["client"] == client:
            kinds.setdefault(_kind(row), []).append(row)
    for kind, rows in sorted(kinds.items()):
        train, test = (sum(row[part] for row in rows) for part in ("train", "test"))
        yield f"clients with {kind}", f"{len(rows)}, with {train} training and {test} test samples"


def clients_by_name(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each client."""
    rows = [(r["client"], _kind(r), str(r["train"]), str(r["test"])) for r in summary["clients"]]
    return [("client", "holds", "training samples", "test samples"), *rows]


def _kind(row: Mapping[str, Any]) -> str:
    return " and ".join(row["holds"]) or "text"


def settings(experiment: Experiment, summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Method and settings of the training."""
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
    yield "sent to the server and back", f"{_bytes(summary, 'bytes_up')} and {_bytes(summary, 'bytes_down')}"
    yield "seed", summary["seed"]
    for part, source in experiment.task.bases(experiment.model).items():
        yield f"base{f', {part}' if part else ''}", public_name(source)
    if (bits := experiment.model.quantize) is not None:
        yield "base during training", f"quantised to {bits.replace('bit', ' bits')}"


def _bytes(summary: Mapping[str, Any], name: str) -> str:
    return show(summary[name], "bytes")


def _metrics_of(run: Finished, client: str | None) -> dict[str, float]:
    """The finite figures of a metric, but for controls and those that bear a client's name."""
    rows = {row["client"]: row["metrics"] for row in run.summary["clients"]}
    found = run.summary["metrics"] if client is None else rows.get(client, {})
    return {
        name: value
        for name, value in sorted(found.items())
        if isinstance(value, int | float)
        and math.isfinite(value)
        and metric_of(name) is not None
        and not name.startswith(("control/", "layer/", "train/"))
        and not name.endswith(("_sample_mean", "_sample_median"))
        and not rows.keys() & {*name.split("/")}
    }


def metrics(run: Finished, client: str | None) -> list[str]:
    """The metrics' names on the hub."""
    names = (str(metric_of(name).name) for name in _metrics_of(run, client))  # type: ignore[union-attr]
    return list(dict.fromkeys(HUB_METRICS.get(name, name) for name in names))


def figures(run: Finished, client: str | None) -> list[tuple[str, ...]]:
    """Every metric before and after the training, with the interval of the latter where it is known."""
    start = run.summary["metrics"].get("start", {}) if client is None else {}
    rows = []
    for name, value in _metrics_of(run, client).items():
        unit, interval = unit_of(name), run.intervals.get(name) if client is None else None
        ends = "" if interval is None else f"{show(interval.low, unit)} to {show(interval.high, unit)}"
        before = start.get(name)
        known = isinstance(before, int | float) and math.isfinite(before)
        rows.append((f"`{name}`", show(before, unit) if known else "", show(value, unit), ends))
    note = "95 % interval over test samples"
    return [("figure", "before training", "after", note), *rows]


def controls(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The figures of inputs taken away, zeroed or exchanged between samples, beside the real ones; none where unmeasured."""
    kinds: dict[tuple[str, str], dict[str, float]] = {}
    for name, value in summary["metrics"].items():
        parts = name.split("/")
        if parts[0] == "control" and len(parts) == 4:
            kinds.setdefault((parts[1], parts[3]), {})[parts[2]] = value
    if not kinds:
        return []
    ways = list(dict.fromkeys(way for found in kinds.values() for way in found))
    rows = []
    for (kind, metric), found in sorted(kinds.items()):
        unit, real = unit_of(metric), summary["metrics"].get(f"global/{kind}/{metric}")
        cells = [show(found[way], unit) if way in found else "" for way in ways]
        rows.append((f"{kind}, {metric}", "" if real is None else show(real, unit), *cells))
    return [("", "as it is", *(f"input {way}" for way in ways)), *rows]


def _noise(dp: DP) -> str:
    """Clip, multiplier and mechanism in words."""
    clip = (
        f"clip at quantile {dp.clip.quantile:g}" if isinstance(dp.clip, QuantileClip) else f"clip {dp.clip:g}"
    )
    multiplier = dp.noise_multiplier if isinstance(dp.noise_multiplier, str) else f"{dp.noise_multiplier:g}"
    mechanism = f", {dp.mechanism} noise, clients in turns" if dp.in_turns else ""
    return f"{clip}, noise multiplier {multiplier}{mechanism}"


def privacy(experiment: Experiment, summary: Mapping[str, Any]) -> list[str]:
    """The mechanisms and the budget spent, or plainly that there was none."""
    secure, dp, robust = experiment.privacy.secure, experiment.privacy.dp, experiment.privacy.robust
    lines = []
    if secure is not None:
        lines.append(
            f"- Secure aggregation: the server learned sums over at least {secure.least} clients, and no client's update."
        )
    if dp is not None:
        spent = (summary["privacy"] or {}).get("spent", {})
        lines.append(
            f"- Differential privacy for clients: epsilon {spent.get('epsilon', math.nan):.4g} at delta {dp.delta:g}, spent over "
            f"{spent.get('rounds', summary['rounds'])} rounds ({_noise(dp)})."
        )
        if dp.seeded:
            lines.append(
                "- The noise was drawn from the run's seed: whoever knows the seed can take it off, and the guarantee is void."
            )
    if robust is not None:
        lines.append(f"- Robust combination of the updates: {robust.kind}.")
    if not experiment.privacy.sums:
        lines.append(
            "- No privacy mechanism: the server saw every client's update, and no noise bounds what the weights tell of "
            "single samples."
        )
    return lines


def limits(run: Finished, client: str | None) -> Iterator[str]:
    """The model's purpose, and open questions about it."""
    experiment, summary = run.experiment, run.summary
    rows = [r for r in summary["clients"] if client in (None, r["client"])]
    kinds = sorted({kind for row in rows if row["train"] or not summary["rounds"] for kind in row["kinds"]})
    yield f"For inputs like those that it was trained on: {', '.join(kinds) or 'see Data'}. Others were not tried."
    tests = sum(row["test"] for row in rows)
    yield (
        f"The figures come from {tests} test samples of the same clients that trained it; they say little about other places, "
        "and nothing about harmful, false or unfair answers, for which nobody looked."
    )
    names = {path for _, _, path in shipped()}
    bases = experiment.task.bases(experiment.model).values()
    toy = all(any(str(path) in source or path.name == source for path in names) for source in bases)
    if toy and not experiment.data.has_own_files:
        yield "Base and data are a small generated world: the model is for demonstrations and tests alone."
    if experiment.attack is not None:
        yield f"Some clients carried out a simulated attack ({experiment.attack.kind}): the model is for studying it alone."
    if summary["status"] != "complete":
        yield "The run did not go as planned; its own report says how."
    yield "Whoever publishes this card should add what the data are, who may use the model, and for what."
