"""Digests of the settings of a summary's runs, by which a summary is found whose experiment file now gives other ones."""

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.experiment.ledger.entry import Entry
from fedloom.experiment.provenance import flat
from fedloom.experiment.settings import Experiment, load_rows

WITHOUT_EFFECT = (
    *("name", "description", "columns", "evaluation.diagnostics"),
    *("engine.threads", "engine.cohort", "engine.workers", "engine.loaders"),
)
"""Settings that change no figure of the last round beyond rounding; threads are recorded on their own."""
NAMED = 3
"""Settings that a sentence names; it counts the others."""


def counts(name: str, experiment: Experiment) -> bool:
    """Whether a setting may change a figure; `data` that lies in files is not known before a run begins."""
    group = name.partition(".")[0]
    return (
        name not in WITHOUT_EFFECT
        and group != "track"
        and not (group == "data" and experiment.data.has_own_files)
    )


def runs_of(command: str, rows: Collection[str], seed: int, root: Path) -> list[Experiment]:
    """The runs of one seed that a summary's command gives for its rows, by the files below `root`. Raises ExperimentError."""
    words = shlex.split(command)
    overrides = words[3 : next(i for i, word in enumerate(words) if word.startswith("--"))]
    given = [word for word in overrides if not word.startswith("seeds=")]
    runs = load_rows(root / words[2], [*given, f"seeds=[{seed}]"])
    return [run for run in runs if run.row is None or run.row in rows]


def digests(runs: Sequence[Experiment]) -> dict[str, str]:
    """By setting, twelve hex digits of its values in all rows and parts. The seed is none of them."""
    values: dict[str, dict[str, str]] = defaultdict(dict)
    here = f"{Path.cwd()}/"  # files name paths from here, and runs hold them whole
    for run in runs:
        for name, value in flat(run.as_dict()).items():
            if name not in ("seed", "row", "across") and counts(name, run):
                text = json.dumps(value, sort_keys=True).replace(here, "")
                values[name][f"{run.row}: {run.across}"] = text
    return {
        name: hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]
        for name, of in sorted(values.items())
    }


def changed(entry: Entry, root: Path) -> list[str]:
    """The settings that are others than the summary's. One that is new since then, and has its default, is no other one."""
    runs = runs_of(entry.command, entry.rows, entry.seeds[0], root)
    now = digests(runs)
    given = {name for run in runs for name in _given(run)}
    return [
        name
        for name in sorted({*entry.settings, *now})
        if entry.settings.get(name) != now.get(name) and (name in entry.settings or name in given)
    ]


def _given(run: Experiment) -> Mapping[str, object]:
    """The settings that are not their defaults."""
    plain = run.model_dump(mode="json", exclude_defaults=True, exclude={"method"})
    return flat(plain | {"method": run.method.model_dump(mode="json", exclude_defaults=True)})


def outdated(entries: Mapping[str, Entry], root: Path) -> Iterator[str]:
    """One sentence for every summary whose experiment file below `root` now gives other settings."""
    for entry in entries.values():
        what, again = (
            f"the summary of {entry.experiment}",
            "run it again, and add it by `fedloom ledger add`.",
        )
        if not entry.settings:
            yield f"{what} holds no digest of its settings: {again}"
            continue
        try:
            names = changed(entry, root)
        except ExperimentError as error:
            yield f"{what}: its command does not run any more ({error}): {again}"
            continue
        if names:
            more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
            yield (
                f"{what}: {entry.file} now gives other settings ({', '.join(names[:NAMED])}{more}), so that the printed "
                f"command no longer gives these figures: {again}"
            )
