from pathlib import Path

import pytest

from tests.experiment.report.report_folders import make_run, make_two_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "q")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return make_two_rows(tmp_path / "demo")
