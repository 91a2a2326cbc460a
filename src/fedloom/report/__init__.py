"""Tables, plots and the offline HTML report of finished runs."""

from fedloom.report.html import write_report
from fedloom.report.read import Run, read_run
from fedloom.report.study import Study, read
from fedloom.report.table import Table, comparison

__all__ = ["Run", "Study", "Table", "comparison", "read", "read_run", "write_report"]
