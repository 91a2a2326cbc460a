"""Trade-offs, one point per row: local against novel accuracy, and accuracy against bytes."""

from fedloom.experiment.report import figures
from fedloom.experiment.report.columns import AVERAGED, titled
from fedloom.experiment.report.figures import Plot
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.table import Table, table_of
from fedloom.experiment.report.units import Spread
from fedloom.tasks.metrics.metric import Unit

LOCAL, NOVEL = "local/image/accuracy", "novel/image/accuracy"


def tradeoffs(study: Study) -> list[Plot]:
    """Local against novel accuracy, and accuracy against bytes, of image classification; none for fewer than two rows.

    In a study of several parts, such as data sets, the figures are means over them.
    """
    names = study.names()
    if len(study.rows) < 2 or LOCAL not in names:
        return []
    quality = "hm" if "hm" in names else LOCAL
    table = table_of(study, [AVERAGED + key for key in (LOCAL, NOVEL, quality, "bytes_up", "bytes_down")])
    charts = []
    if NOVEL in names:
        accuracies = _points(table, NOVEL, LOCAL)
        title = "local against novel accuracy"
        charts.append(
            figures.points(title, accuracies, ("novel", "percent"), ("local", "percent"), "tradeoff")
        )
    sent = {
        row: (Spread.of([up.mean + down.mean]), value)
        for row, (up, down) in _points(table, "bytes_up", "bytes_down").items()
        if (value := _cell(table, row, quality)) is not None
    }
    title = f"{titled()[quality]} against bytes"
    both: tuple[str, Unit] = ("bytes up and down in the whole run", "bytes")
    charts.append(figures.points(title, sent, both, (titled()[quality], "percent"), "against-bytes"))
    return charts


def _points(table: Table, x: str, y: str) -> dict[str, tuple[Spread, Spread]]:
    pairs = {r.label: (_cell(table, r.label, x), _cell(table, r.label, y)) for r in table.rows}
    return {row: (a, b) for row, (a, b) in pairs.items() if a is not None and b is not None}


def _cell(table: Table, row: str, key: str) -> Spread | None:
    column = next(c for c in table.columns if c.key == key)
    return table.cell(row, column.name)
