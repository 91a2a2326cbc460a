"""Every site's data lie in a folder that the site names; the server never sees the path, and the result is the local engine's."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Site, requests_of
from fedloom.deploy.trainer import SiteTrainer, build_client
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Silos

NAMES = ("north", "south", "west")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """One folder per site, each with that site's data alone; `all` holds the same for a local run. One site has text only."""
    for number, name in enumerate(NAMES):
        lines = []
        for root in (tmp_path / "all" / name, tmp_path / "at" / name / name):
            root.mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (40, 32), (40 * i, 90 * number, 60)).save(root / f"{i}.png")
        for i in range(6):
            line = {"question": f"{i} and {number}?", "answer": f"it is {i + number}"}
            lines.append(line if name == "west" else {**line, "image": f"{i}.png"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        for root in (tmp_path / "all" / name, tmp_path / "at" / name / name):
            (root / "metadata.jsonl").write_text(text)
    return {name: tmp_path / "at" / name for name in NAMES}


def own(path: str) -> Experiment:
    return Experiment.parse(
        {
            "method": "feda2-lora",
            "rounds": 2,
            "data": {"source": "folder", "path": path},
            "training": {"batch_size": 4},
            "evaluation": {"generate": False, "controls": False, "samples": 0},
            "engine": {"cohort": "off"},
        }
    )


def site_of(name: str, data: Path | None, experiment: Experiment) -> Site:
    return Site(name=name, server="x:1", sites=NAMES, requests=requests_of(experiment), data=data)


def test_a_site_reads_its_own_folder_and_nothing_else(places) -> None:
    experiment = own("/nowhere/at/all")
    federation = build_client(site_of("north", places["north"], experiment), experiment)
    assert list(federation.clients) == ["north"]
    assert federation.clients["north"].data.holds == ("image",)
    assert not any(".audio" in name for name in federation.engine.model.tensors), "it loads what it holds"


@pytest.mark.parametrize(
    ("name", "data", "source", "message"),
    [
        ("east", "north", "folder", "nothing of a client called east; there is north"),
        ("north", "north", "tabletop", "the experiment generates its data"),
        ("north", None, "folder", "silos"),
    ],
)
def test_a_site_with_the_wrong_data_is_one_sentence(name, data, source, message, places) -> None:
    experiment = own("silos") if source == "folder" else Experiment.parse({"method": "feda2-lora"})
    with pytest.raises(ExperimentError, match=message):
        build_client(site_of(name, places[data] if data else None, experiment), experiment)


@pytest.mark.deploy
def test_three_sites_with_folders_of_their_own_end_in_the_bits_of_one_machine(places, tmp_path) -> None:
    run(own(str(tmp_path / "all")), tmp_path / "local")
    experiment = own("/nowhere/at/all")
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    for name in NAMES:
        site = site_of(name, places[name], experiment)
        silos.trainers[name] = SiteTrainer(site, experiment, tmp_path / "sites" / name)
    go_on(experiment, NAMES, tmp_path / "far", silos)
    one, two = RunFolder(tmp_path / "local").last(), RunFolder(tmp_path / "far").last()
    assert one.state.shared.keys() == two.state.shared.keys()
    assert all(torch.equal(t, two.state.shared[n]) for n, t in one.state.shared.items())
