"""The paths of accuracies over the rounds on the ledger's pages: two plots as files, a sentence and a table for each part."""

from collections.abc import Mapping

from fedloom.experiment.ledger.entry import Entry
from fedloom.experiment.report.accuracy_paths import Path, cells, plot, swatches, title_of, verdict
from fedloom.experiment.report.svg import standalone
from fedloom.experiment.report.table import markdown_table

PLOTTED = ("base", "local")
MOST = 11
"""Rounds that a table shows at most; the plots have all."""


def paths_by_part(entry: Entry) -> dict[str | None, list[Path]]:
    """The paths of each part, as the report reads them from the runs."""
    parts: dict[str | None, list[Path]] = {}
    for trace in entry.traces:
        parts.setdefault(trace.across, []).append(Path(trace.row, trace.rounds))
    return parts


def blocks(entry: Entry) -> list[str]:
    """Plots, sentence and table of every part as Markdown; nothing for a study without paths."""
    written = []
    for number, (across, paths) in enumerate(paths_by_part(entry).items()):
        links = [f"![{title_of(x, across)}]({_file(entry, number, x)})" for x in PLOTTED]
        rounds = thinned(sorted({r for path in paths for r in path.rounds}))
        table = markdown_table(
            ["", *(f"round {r}" for r in rounds), "settled"],
            [[path.row, *cells(path, rounds)] for path in paths],
        )
        head = "Over the rounds" + ("" if across is None else f", {across}")
        caption = f"{head}: local / base / novel accuracy in %, means over the seeds"
        written += [f"{caption}.", "\n".join(links), verdict(paths)[1], table]
    return written


def thinned(rounds: list[int]) -> list[int]:
    """At most MOST of the rounds, the first and the last among them, evenly apart but for the last step."""
    step = -(-(len(rounds) - 1) // (MOST - 1)) or 1
    return [*rounds[:-1][::step], *rounds[-1:]]


def plots(entries: Mapping[str, Entry]) -> dict[str, str]:
    """The plots by file name: a point for each evaluated round, hollow before training and large at the end."""
    files = {}
    for entry in entries.values():
        for number, (across, paths) in enumerate(paths_by_part(entry).items()):
            for x in PLOTTED:
                drawn = standalone(plot(paths, x, across), title_of(x, across), swatches(paths))
                files[_file(entry, number, x)] = drawn + "\n"
    return files


def _file(entry: Entry, part: int, x: str) -> str:
    return f"{entry.experiment}-{part + 1}-{x}.svg"
