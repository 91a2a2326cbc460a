"""Tables, plots and the offline HTML report of finished runs."""

from fedloom.experiment.report.html import write_report
from fedloom.experiment.report.load_study import Study, read
from fedloom.experiment.report.read import Run, read_run
from fedloom.experiment.report.table import Table, comparison

__all__ = ["Run", "Study", "Table", "comparison", "read", "read_run", "write_report"]
