"""Image classification between sites: the local engine's bits and metrics, with CLIP, for methods of every shape."""

import pytest
import torch

from fedloom.deploy.server import go_on
from fedloom.experiment.run import run
from tests.deploy.silos import Silos
from tests.deploy.test_parity import metrics, shared

OFF = {"cohort": "off"}
FIGURES = ("local/", "base/", "novel/", "hm", "domain/", "held_out/")


def tabletop(clip_folder, **partition) -> dict:
    return {
        "source": "classes",
        "dataset": "tabletop",
        "train": 3,
        "test": 2,
        "partition": partition,
    }


def compared(experiment, names, tmp_path):
    run(experiment, tmp_path / "local")
    result = go_on(experiment, names, tmp_path / "far", Silos(experiment, names, tmp_path / "sites"))
    assert result.summary["status"] == "complete"
    one, two = shared(tmp_path / "local"), shared(tmp_path / "far")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n], two[n]) for n in one)
    here, there = metrics(tmp_path / "local", FIGURES), metrics(tmp_path / "far", FIGURES)
    assert here.keys() == there.keys()
    for key in here:
        assert there[key] == pytest.approx(here[key], abs=1e-12), key
    return result, there


@pytest.mark.parametrize("method", ["pfedmma", "promptfl", "fedpgp", "pfedmoap"])
def test_x(method, quick, tmp_path) -> None:
    names = tuple(f"image-0{i}" for i in (1, 2, 3))
    experiment = quick(method, engine=OFF, rounds=3)
    result, there = compared(experiment, names, tmp_path)
    print(result.summary["clients"], there)
