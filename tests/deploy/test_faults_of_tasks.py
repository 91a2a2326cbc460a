"""The faults of `test_faults` for image classification, pre-training and native models: one run through all of them, in turn."""

from collections.abc import Iterator
from typing import Any

import pytest

from fedloom.deploy.server import go_on
from fedloom.experiment.settings import Experiment
from fedloom.methods.base.method import Method
from tests.deploy.kills import MOMENTS, POINTS, kill_at, kill_trainer
from tests.deploy.silos import Killed, Silos, outcome, question_of, reboot
from tests.deploy.test_foundation_parity import PRETRAINING, native
from tests.models.clip.tiny_clip import quick_settings

NAMES = ("image-01", "image-02")


@pytest.fixture(scope="module", params=["pfedmoap", "fedcmp", "fedsa-lora"])
def experiment(request, clip_folder, tmp_path_factory) -> Experiment:
    """Clients with prompts of others, projectors, and a native model with a personal part."""
    settings: dict[str, Any] = {
        "pfedmoap": lambda: quick_settings(clip_folder, 2),
        "fedcmp": lambda: PRETRAINING,
        "fedsa-lora": lambda: native("llava", tmp_path_factory.mktemp("llava")),
    }[request.param]()
    evaluation = {"generate": False, "controls": False, "samples": 0, "every": 2}
    method = {"name": request.param, **({"rank": 40} if request.param == "fedcmp" else {})}
    common = {"rounds": 2, "method": method, "evaluation": evaluation, "engine": {"cohort": "off"}}
    return Experiment.parse({**settings, **common})


@pytest.fixture(scope="module")
def warm(experiment, tmp_path_factory) -> dict[str, Any]:
    silos = Silos(experiment, NAMES, tmp_path_factory.mktemp("warm"))
    return {name: silos.trainer(name) for name in NAMES}


def test_a_run_through_every_kill_ends_in_the_model_of_an_undisturbed_one(
    experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    """A trainer is killed at every moment of a round, the server at every point of round 2, and the sites each time with it."""
    method: Method = experiment.method
    moments = [m for m in MOMENTS if m != "while writing its state" or method.scope.personal]
    left = [(number, moment) for number in (1, 2) for moment in moments]

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        while name == "image-02" and left and question_of(question, round=left[0][0]):
            kill_trainer(left.pop(0)[1], sites, name, question, monkeypatch)
        yield name, sites.trainer(name).answer(question)

    sites.between = between
    for point in sorted(
        POINTS, key=lambda p: p != "while aggregating"
    ):  # first one that leaves `between` alone
        with monkeypatch.context() as patch:
            kill_at(point, sites, patch)
            with pytest.raises(Killed):
                go_on(experiment, NAMES, tmp_path / "run", sites)
        assert (tmp_path / "run" / "state" / "round-000001").is_dir(), point
        assert not (tmp_path / "run" / "state" / "round-000002").exists(), point
        sites.between = None
        for name in NAMES:
            reboot(sites, name)
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert not left
    assert outcome(sites, tmp_path / "run") == undisturbed
