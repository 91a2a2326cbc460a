import pytest


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has tests of its own; drawing it after each of these runs would take most of their time."""
    monkeypatch.setattr("fedloom.report.write_report", lambda folder: folder / "report.html")
