"""The loaders of runs, and runs that wait for their worker processes."""

from collections.abc import Iterator
from typing import Any

import pytest

from fedloom.models.loading.loader import Loader
from fedloom.models.loading.loader_pool import LoaderPool


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Loader]]:
    """The loaders that runs make, which are closed at the end."""
    made: list[Loader] = []

    class Noted(Loader):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("fedloom.experiment.build.Loader", Noted)
    yield made
    for one in made:
        one.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs wait for workers that are not up yet, instead of reading by themselves."""
    ready = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(LoaderPool, "ready", ready, raising=False)
