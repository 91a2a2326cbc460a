import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores; set before torch is imported

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.models.clip.tiny_clip
import tests.models.own.tiny_own_models
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.loop import Federation
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import METHODS, Method
from fedloom.methods.base.clip import CLIPMethod

QUICK: dict[str, Any] = {
    "name": "quick",
    "rounds": 2,
    "data": {"clients": {"image": 1, "audio": 1, "both": 1}, "train": 12, "test": 4},
    "model": {"llm_lora": {"rank": 4}, "encoder_lora": {"rank": 3}},
    "training": {"batch_size": 6},
    "evaluation": {"generate": False, "controls": False, "samples": 2},
}


@pytest.fixture(autouse=True)
def _plain_floating_point() -> Iterator[None]:
    """A run flushes denormals for the whole process; the tests beside it shall not notice."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests accept stays theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(
            "fedloom.models.shared_features.WORTH", float("inf")
        )  # no test reads another's features
        yield


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP and pictures for it; see tests/models/clip/tiny_clip.py."""
    return tests.models.clip.tiny_clip.write(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random generator and captioner; see tests/models/own/tiny_own_models.py."""
    return tests.models.own.tiny_own_models.write(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> Callable[..., Experiment]:
    """An experiment of seconds on the shipped tiny foundation; keyword arguments replace whole top-level settings.

    A method on CLIP, or on public items, runs on random foundations, with as many clients as `data` asks for.
    """

    def make(method: str | dict[str, Any] | Method = "feda2-lora", **settings: Any) -> Experiment:
        name = method["name"] if isinstance(method, dict) else method
        kind = type(name) if isinstance(name, Method) else METHODS[name]
        if issubclass(kind, CLIPMethod):
            clients = settings.pop("data", {}).get("clients", {"image": 3})
            usual = tests.models.clip.tiny_clip.quick_settings(
                request.getfixturevalue("clip_folder"), sum(clients.values())
            )
            training = {**usual["training"], **settings.pop("training", {})}
            return Experiment.parse({**usual, "method": method, "training": training, **settings})
        if kind.public_items:
            clients = settings.pop("data", {}).get("clients", {"image": 3})
            usual = tests.models.own.tiny_own_models.quick_settings(
                request.getfixturevalue("zoo_folder"), sum(clients.values())
            )
            given = {n: {**usual[n], **settings.pop(n, {})} for n in ("training", "model") if n in usual}
            if isinstance(method, str):
                method = {"name": method, **tests.models.own.tiny_own_models.METHODS.get(method, {})}
            return Experiment.parse({**usual, "method": method, **given, **settings})
        return Experiment.parse({**QUICK, "method": method, **settings})

    return make


@pytest.fixture
def federate(tmp_path: Path) -> Callable[..., Federation]:
    """A federation that has not run yet, writing to its own folder unless told not to."""

    def make(experiment: Experiment, folder: str | None = None) -> Federation:
        place = None if folder is None else RunFolder(tmp_path / folder)
        if place is not None:
            place.create()
        return build(experiment, place, lambda progress: None)

    return make
