"""Knowledge transfer by synthetic data (FedMMKT): generated pictures, the clients' votes, and their fusion."""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.aggregation.fusion_measures import ALIKE, FEW
from fedloom.core.errors import ExperimentError
from fedloom.experiment.report import figures
from fedloom.experiment.report.columns import spread_of
from fedloom.experiment.report.figures import Grid, Plot
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.page import curve, spans
from fedloom.experiment.report.read import Run, inside, parse
from fedloom.experiment.report.units import Spread, arrow, show, unit_of, words

GENERATOR = ("agreement", "fid", "kid", "clip_score", "diversity", "loss")
VOTE = ("coverage", "precision", "prompt_accuracy", "relabelled")
FUSION = (
    "effective_clients",
    "max_weight",
    "cosine",
    "rank99",
    "alignment_error",
    "alignment_variance",
    "tau_agg",
)
"""Ordered measures: `<group>/<measure>`, for the fusion also `fusion/<modality>/<measure>`."""

GROUPS = {
    "generator": (
        GENERATOR,
        "Agreement: fresh pictures whose class, by a judge trained on real ones, is the one asked for. FID and KID: "
        "distance to real pictures in that judge's features, lower is better. Diversity: mean distance within a class. "
        "The judge is for evaluation only. Loss: the noise-prediction error on what was kept.",
    ),
    "vote": (
        VOTE,
        "Coverage: synthetic items kept. Precision: kept items whose voted label is the judge's. Prompt accuracy: all "
        "items whose prompted class is the judge's. Relabelled: kept items whose voted label is not the prompted class.",
    ),
    "fusion": (
        FUSION,
        "Effective clients: 1/Σa², how many clients a fused vector rests on. Cosine: between the fused vectors of "
        "different items, 1 is a collapse. Rank: singular values that hold 99 % of the energy. Alignment error: mean squared "
        "distance of the clients' vectors to the fused one.",
    ),
}
"""Measures of each group, and their explanation."""

DRAWN = 12
"""Largest number of rows with pictures or bars of weights; in larger studies each run's own report has them."""
BETWEEN = 6
"""Largest number of intermediate grids in a report on one row; the run folder has the others."""

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A grid of pictures as a data: URI, a row for each class."""

    title: str
    uri: str


@dataclass(frozen=True)
class Gallery:
    """Grids of one row's generator: before, after and real; intermediate rounds; class names from the top."""

    row: str
    classes: Sequence[str]
    shown: Sequence[Picture]
    between: Sequence[Picture]


@dataclass(frozen=True)
class Part:
    """A group of figures: curves over the rounds, and the last round's table."""

    title: str
    note: str
    plots: Sequence[Plot]
    grid: Grid


def galleries(study: Study) -> list[Gallery]:
    """The pictures of each row's first run with any: `generated/round-<n>.png`, `real.png` and `classes.json`.

    Raises ExperimentError for a file that is no PNG, and for a broken `classes.json`.
    """
    rows = study.flat().rows
    sections = []
    for row, runs in rows.items():
        folder = next((f for run in runs if (f := run.folder / "generated").is_dir()), None)
        if folder is None:
            continue
        rounds = {int(m[1]): f for f in folder.iterdir() if (m := re.fullmatch(r"round-(\d+)\.png", f.name))}
        shown, between = [], []
        if rounds:
            first, last = min(rounds), max(rounds)
            when = {last: "after the last round, ", first: "before training, " if first == 0 else ""}
            shown = [_picture(folder, rounds[r], f"{when[r]}round {r}") for r in sorted(when)]
            middle = sorted(r for r in rounds if first < r < last) if len(rows) == 1 else []
            step = max(1, -(-len(middle) // BETWEEN))
            between = [_picture(folder, rounds[r], f"round {r}") for r in middle[step - 1 :: step]]
        if (folder / "real.png").is_file():
            shown.append(_picture(folder, folder / "real.png", "real"))
        if shown:
            named = folder / "classes.json"
            classes = parse(named, tuple[str, ...]) if named.is_file() else ()
            sections.append(Gallery(row, classes, shown, between))
    return sections if len(sections) <= DRAWN else []


def parts(study: Study) -> list[Part]:
    """The parts generator, vote and fusion, as far as any run measured them."""
    return [part for group in GROUPS if (part := _part(study, group))]


def weights(study: Study) -> list[Plot]:
    """Per row: each client's mean fusion weight, in the first and the last round with fusion."""
    rows = study.flat().rows
    charts = []
    for number, (row, runs) in enumerate(rows.items()):
        names = dict.fromkeys(n for run in runs for n in run.names() if _is_weight(n))
        groups: dict[str, dict[str, Spread | None]] = {}
        for name in names:
            series = [s for run in runs if (s := run.series(name))]
            first, last = ([s[pick(s)] for s in series] for pick in (min, max))
            client = name.removeprefix("fusion/").removesuffix("/weight")
            groups[client] = {"first": spread_of(first), "last": spread_of(last)}
        if groups:
            title = f"Weights of {row}, first and last round of fusion"
            charts.append(
                figures.bars(title, groups, "percent", f"weights{number}", ["first", "last"], name=row)
            )
    return charts if len(charts) <= DRAWN else []


def collapses(study: Study) -> list[str]:
    """A sentence for every row and kind of collapse of its fusion in any round."""
    sentences = []
    for row, runs in study.flat().rows.items():
        few = _rounds(runs, "effective_clients", lambda value: value < FEW)
        if few:
            lowest = min(few.values())
            sentences.append(
                f"{row}: the fusion weights collapsed, fewer than {FEW:g} clients counted in {_when(few)} (lowest {lowest:.2f})."
            )
        alike = _rounds(runs, "cosine", lambda value: value > ALIKE)
        if alike:
            highest = max(alike.values())
            sentences.append(
                f"{row}: the fused vectors collapsed, those of different items are nearly one in {_when(alike)} "
                f"(mean cosine up to {highest:.3f})."
            )
    return sentences


def _part(study: Study, group: str) -> Part | None:
    measures, note = GROUPS[group]
    names = [n for n in study.names() if n.startswith(f"{group}/") and n.rsplit("/", 1)[1] in measures]
    if not names:
        return None
    names.sort(key=lambda n: measures.index(n.rsplit("/", 1)[1]))
    charts = [
        plot
        for i, (across, part) in enumerate(study.parts().items())
        for name in names
        if (plot := curve(part, name, f"transfer{i}{name.replace('/', '')}", across))
    ]
    lines = [
        [row, *(show(spread_of([run.final(n) for run in runs]), unit_of(n)) for n in names)]
        for row, runs in study.flat().rows.items()
    ]
    lines = [line for line in lines if any(field != "—" for field in line[1:])]
    header = ["row", *(words(n.split("/", 1)[1]) + arrow(n) for n in names)]
    title = group.capitalize()
    return Part(title, note, charts, Grid(f"{title}, last round", header, lines))


def is_shown(name: str) -> bool:
    """Whether a figure stands in one of the parts, or among the weights."""
    group, _, rest = name.partition("/")
    return group in GROUPS and (rest.rsplit("/", 1)[-1] in GROUPS[group][0] or _is_weight(name))


def _rounds(runs: Sequence[Run], measure: str, bad: Callable[[float], bool]) -> dict[int, float]:
    """The worst bad value of `fusion/<measure>` or `fusion/<modality>/<measure>` by round."""
    by_round: dict[int, list[float]] = {}
    for run in runs:
        for name in run.names():
            if name.startswith("fusion/") and name.endswith(f"/{measure}"):
                single = _single_client(run, name.split("/")[1])
                for r, value in run.series(name).items():
                    if bad(value) and r not in single:
                        by_round.setdefault(r, []).append(value)
    return {r: min(v) if measure == "effective_clients" else max(v) for r, v in by_round.items()}


def _single_client(run: Run, modality: str) -> set[int]:
    """Rounds with a single answering client of a modality: it has all the weight, which is no collapse."""
    client_series = [
        run.series(n) for n in run.names() if _is_weight(n) and n.startswith(f"fusion/{modality}-")
    ]
    rounds = [r for series in client_series for r in series]
    return {r for r in rounds if rounds.count(r) == 1}


def _when(rounds: dict[int, float]) -> str:
    return f"round{'s' if len(rounds) > 1 else ''} {spans(rounds)}"


def _is_weight(name: str) -> bool:
    return name.startswith("fusion/") and name.endswith("/weight")


def _picture(folder: Path, path: Path, title: str) -> Picture:
    try:
        data = inside(folder, path.name, folder).read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: restore it or take it away.") from error
    if not data.startswith(_PNG):
        raise ExperimentError(f"{path} is no PNG picture: restore it or take it away.")
    return Picture(title, f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}")
