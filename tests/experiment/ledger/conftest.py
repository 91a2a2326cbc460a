"""A small repository as working directory."""

from pathlib import Path

import pytest

from tests.experiment.ledger.ledger_folders import make_repository


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_repository(tmp_path)
