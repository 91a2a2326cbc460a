"""Sites with picture folders of their own and an agreed class list: from `init` over a Grid to the local engine's bits."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.deploy import server
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.trainer import SiteTrainer
from fedloom.experiment.build import build
from fedloom.experiment.finished_run import read_experiment
from fedloom.experiment.settings import Experiment
from tests.deploy.silos import Silos

NAMES = ("north", "south")
HELD = {"north": ("red_cube", "blue_ball"), "south": ("blue_ball", "green_cone", "pink_ring")}
BASE, NOVEL = ["red cube", "blue ball", "green cone", "pink ring"], ["red ball", "green cube"]


def paint(folder: Path, label: int, count: int) -> None:
    draw = np.random.default_rng(label)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = draw.integers(0, 256, (16, 18, 3), dtype=np.uint8)
        pixels[: 2 + 2 * label, :, label % 3] = 250
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def all_data(tmp_path: Path) -> Path:
    """Both clients' pictures, and common ones."""
    root = tmp_path / "all"
    for client, classes in HELD.items():
        for name in classes:
            paint(root / client / name, BASE.index(name.replace("_", " ")) + len(client), 5)
    for label, name in enumerate([*BASE, *NOVEL]):
        paint(root / "common" / name, label, 2)
    return root


def experiment(path: Path | str, clip: Path, method: str = "promptfl") -> Experiment:
    return Experiment.parse(
        {
            "rounds": 2,
            "method": method,
            "data": {
                "source": "classes",
                "dataset": "shapes",
                "path": str(path),
                "partition": {"kind": "folder", "base": BASE, "novel": NOVEL},
            },
            "model": {"clip": str(clip / "clip")},
            "training": {"batch_size": 4, "optimizer": "sgd", "lr": 0.02, "clip": None},
            "evaluation": {"every": 2, "generate": False, "controls": False, "samples": 0},
            "engine": {"cohort": "off"},
        }
    )


def deployed(chosen: Experiment, places: dict[str, Path], folder: Path, monkeypatch) -> Any:
    """A run from the files of a kit: each site reads its own folder, over a Grid."""
    pytest.importorskip("fedloom.deploy.flower_server", reason="Flower is not installed")
    from tests.deploy.hand_grid import between

    write_kit(folder / "kit", chosen, Deployment(sites=NAMES))
    silos = Silos(chosen, NAMES, folder / "kit" / "sites")
    for name in NAMES:
        home = folder / "kit" / "sites" / name
        fields = yaml.safe_load((home / "site.yaml").read_text())
        (home / "site.yaml").write_text(yaml.safe_dump({**fields, "data": str(places[name])}))
        site = read_settings(Site, home / "site.yaml")
        silos.trainers[name] = SiteTrainer(site, read_experiment(home), home)
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    with between(silos, folder) as carrier:
        return go_on(read_experiment(folder / "kit" / "server"), NAMES, folder / "run", carrier)


def apart(all_data: Path, folder: Path, common: tuple[str, ...]) -> dict[str, Path]:
    """Each client's pictures in a place of its own; those in `common` hold the common ones, too."""
    for name in NAMES:
        shutil.copytree(all_data / name, folder / name / name)
        if name in common:
            shutil.copytree(all_data / "common", folder / name / "common")
    return {name: folder / name for name in NAMES}


@pytest.mark.parametrize(
    ("method", "holder"),
    [
        ("promptfl", "sites"),
        ("promptfl", "server"),
        ("promptfl", "nobody"),
        ("pfedmma", "sites"),
        ("pfedmma", "server"),
    ],
)
def test_sites_with_their_own_folders_end_where_one_machine_does(
    method, holder, all_data, clip_folder, tmp_path, monkeypatch
) -> None:
    local = build(experiment(all_data, clip_folder, method), None, lambda progress: None)
    local.run()
    places = apart(all_data, tmp_path / "at", NAMES if holder == "sites" else ())
    at_server = tmp_path / "at server"
    if holder == "server":
        shutil.copytree(all_data / "common", at_server / "common")
    far = deployed(experiment(at_server, clip_folder, method), places, tmp_path, monkeypatch)
    assert far.state.shared.keys() == local.state.shared.keys()
    assert all(torch.equal(t, local.state.shared[n]) for n, t in far.state.shared.items())
    here, there = dict(local.last_metrics), dict(far.last_metrics)
    assert there.pop("evaluated_sites") == 2
    measured = holder == "sites" or (holder == "server" and method == "promptfl")
    if not measured:
        assert here.keys() - there.keys() == {"base/image/accuracy", "novel/image/accuracy", "hm", "hm2"}
    else:
        assert here.keys() == there.keys()
    assert there == pytest.approx({n: here[n] for n in there}, abs=1e-12)
    said = [note for note in far.engine.model.notes if "not measured" in note]
    assert len(said) == (0 if measured else 1)
    assert all("base and novel" in note for note in said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stranger", "stripes is none of the 4 classes agreed on in data.partition"),
        ("novel", "red_ball is none of the 4 classes"),
        ("empty", "green_cone holds no picture"),
        ("elsewhere", "the data hold nothing of a client called south; there is west"),
        ("nothing", "holds no client"),
    ],
)
def test_a_site_whose_folder_does_not_fit_gets_one_sentence(
    change, message, all_data, clip_folder, tmp_path
) -> None:
    place = apart(all_data, tmp_path / "at", ())["south"]
    if change in ("stranger", "novel"):
        paint(place / "south" / {"stranger": "stripes", "novel": "red_ball"}[change], 1, 3)
    if change == "empty":
        for file in (place / "south" / "green_cone").iterdir():
            file.unlink()
    if change == "elsewhere":
        (place / "south").rename(place / "west")
    if change == "nothing":
        shutil.rmtree(place / "south")
    site = Site(name="south", server="x:1", sites=NAMES, requests=(), data=place)
    with pytest.raises(ExperimentError, match=message) as caught:
        SiteTrainer(site, experiment("/nowhere/at/all", clip_folder), tmp_path / "site")
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("partition", "more", "message"),
    [
        ({"base": BASE[:1]}, {}, "at least 2"),
        ({"base": BASE, "novel": ["pink_ring"]}, {}, "two classes are called 'pink ring'"),
        ({"base": ["a\nb", "c"]}, {}, "is no class"),
        ({"base": BASE}, {"path": None}, "kind folder reads <path>/<client>/<class>/<image>"),
        ({"base": BASE}, {"dataset": "digits"}, "kind folder reads"),
        ({"base": BASE}, {"clients": {"image": 2}}, "data.clients"),
    ],
)
def test_an_agreement_that_is_none_is_refused(partition, more, message, clip_folder) -> None:
    fields = experiment("/nowhere", clip_folder).as_dict()
    fields["data"] |= {"partition": {"kind": "folder", **partition}, **more}
    with pytest.raises(ExperimentError, match=message):
        Experiment.parse(fields)


def test_a_site_with_another_copy_of_a_data_set_is_named(quick, tmp_path, clip_folder) -> None:
    """Pictures dealt by class from files: the server and a site hold different classes."""
    chosen = quick("promptfl", engine={"cohort": "off"}, data={"clients": {"image": 2}})
    names = ("image-01", "image-02")
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder / "pictures", copy)
    (copy / "red_cube").rename(copy / "crimson_cube")
    silos = Silos(chosen, names, tmp_path / "sites")
    site = Site(
        name="image-02", server="x:1", sites=names, requests=("describe", "evaluate", "train"), data=copy
    )
    silos.trainers["image-02"] = SiteTrainer(site, chosen, tmp_path / "sites" / "image-02")
    with pytest.raises(
        ExperimentError, match="site image-02 finds other classes in its data than the server"
    ):
        go_on(chosen, names, tmp_path / "far", silos)
