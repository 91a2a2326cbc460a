import pytest

from fedloom.experiment.registry import load_entry_points

load_entry_points()  # installed methods from outside the package pass the same matrix; before the tests list them


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report and generator evaluation have tests of their own; after each of these runs they would take most of their time."""
    monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
