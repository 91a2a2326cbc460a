"""`fedloom compare` of a study over a grid: a table per figure, its first axis in columns."""

from collections.abc import Sequence

from rich.text import Text

from fedloom.cli.output import echo, out
from fedloom.core.terminal_tables import fitted
from fedloom.experiment.report.differences import SAMPLES_NOTE
from fedloom.experiment.report.grid_cells import grids_of
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.table import markdown_table


def show_grids(
    study: Study, keys: Sequence[str] | None, against: str | None, *, markdown: bool = False
) -> None:
    """Print every figure over its grid; with `against`, also the differences from that row."""
    notes: dict[str, None] = {}
    for grid in grids_of(study, keys, against):
        title = f"{grid.title} %" if grid.unit == "percent" else grid.title
        _show(title, *grid.table(), markdown=markdown)
        if against is not None:
            _show(f"{title}, difference from {against}", *grid.table(differences=True), markdown=markdown)
        if any(cell.mark for cell in grid.cells.values()):
            notes[
                f"+ −: ahead of, or behind {grid.against}: the interval of the difference excludes zero; "
                "in brackets: the seeds disagree in sign"
            ] = None
            notes[SAMPLES_NOTE] = None
        if any(cell.figure is not None and cell.figure.sd is not None for cell in grid.cells.values()):
            notes["mean ± sample standard deviation over the seeds, last round"] = None
    notes[f"maps of the same figures: fedloom report {study.folder}"] = None
    for note in notes:
        echo(f"\n{note}") if markdown else out.print(Text(note))


def _show(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool) -> None:
    if markdown:
        echo(f"\n{title}\n\n{markdown_table(header, lines)}")
        return
    shown = [[cell.replace(" ± ", "±").replace(" [", "\n[") for cell in line] for line in lines]
    out.print(Text(f"\n{title}", style="bold"), fitted(header, shown, out.width, gap=1, keep=1), sep="\n")
