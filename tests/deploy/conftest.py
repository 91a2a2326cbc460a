"""Two sites whose trainers are loaded once for all tests of a deployment."""

from collections.abc import Callable
from typing import Any

import pytest

from fedloom.deploy import server
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import experiment_digest
from fedloom.experiment.settings import Experiment
from tests.deploy.silos import Silos, outcome

NAMES = ("image-01", "image-02")
DATA = {"clients": {"image": 2}, "train": 8, "test": 1}
MODELS: dict[str, Any] = {}


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    """Two sites, a shared and a personal part: whoever stands at a wrong state ends elsewhere."""
    return Experiment.parse(
        {
            "rounds": 2,
            "method": "fedsa-lora",
            "data": DATA,
            "model": {"llm_lora": {"rank": 4}, "encoder_lora": {"rank": 3}},
            "training": {"batch_size": 4},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 2},
            "engine": {"cohort": "off"},
        }
    )


@pytest.fixture(scope="session")
def warm(experiment, tmp_path_factory) -> dict[str, Any]:
    """One trainer per site for all tests, since each loads a foundation; a test gives it a folder of its own."""
    silos = Silos(experiment, NAMES, tmp_path_factory.mktemp("warm"))
    return {name: silos.trainer(name) for name in NAMES}


def _with_one_model(build: Callable[..., Any]) -> Callable[..., Any]:
    """`build_server` with a model that is loaded once for all tests."""

    def built(experiment: Experiment, *arguments: Any) -> Any:
        task = type(experiment.task)
        load = task.model

        def model(*options: Any) -> Any:
            key = experiment_digest(experiment)
            if key not in MODELS:
                MODELS[key] = load(*options)
            return MODELS[key]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task, "model", model)
            return build(experiment, *arguments)

    return built


@pytest.fixture
def sites(experiment, warm, tmp_path, monkeypatch) -> Silos:
    """Two sites that have kept nothing yet; the server's model is loaded once, too."""
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    for name, trainer in warm.items():
        trainer.folder, trainer._states = tmp_path / "sites" / name, {}
        silos.trainers[name] = trainer
    monkeypatch.setattr(server, "build_server", _with_one_model(server.build_server))
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    return silos


@pytest.fixture
def undisturbed(experiment, sites, tmp_path) -> str:
    path = tmp_path / "undisturbed"
    go_on(experiment, NAMES, path, sites)
    result = outcome(sites, path)
    for name in NAMES:
        trainer = sites.trainers[name]
        trainer.folder, trainer._states = tmp_path / "again" / name, {}
    sites.asked.clear()
    return result
