"""Labelled samples of the sites' own: each sees its own folder alone, the server none, and the bits are the local engine's."""

import json
import shutil

import pytest
from PIL import Image

from fedloom.data.digits import handwriting
from fedloom.deploy.demo import largest_difference_of_all
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Site, requests_of
from fedloom.deploy.trainer import SiteTrainer
from fedloom.experiment.run import run
from fedloom.federation.settings import EngineSettings
from tests.deploy.silos import Silos

HOLDS = {"north": "image", "south": "text", "west": "image"}
CLASSES = ("one", "two", "three")


@pytest.fixture
def folder(tmp_path):
    """Three clients with a few samples of two or three classes each."""
    pictures, labels = handwriting()
    for number, (client, modality) in enumerate(HOLDS.items()):
        own = tmp_path / "data" / client
        own.mkdir(parents=True)
        lines = []
        for label in range(1, 4 if client != "west" else 3):
            places = (labels == label).nonzero()[:, 0][8 * number : 8 * number + 8].tolist()
            for place in places:
                line = {"label": CLASSES[label - 1]}
                if modality == "image":
                    line["file_name"] = f"{place}.png"
                    Image.fromarray(pictures[place].permute(1, 2, 0).numpy()).save(own / line["file_name"])
                else:
                    line["text"] = f"a {CLASSES[label - 1]} with {label} strokes"
                lines.append(line)
        (own / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "data"


def agreed(path, **more):
    partition = {"kind": "folder", "classes": list(CLASSES), "holds": HOLDS, **more}
    return {"source": "labelled", "dataset": "strokes", "path": str(path), "partition": partition}


def test_sites_with_folders_of_their_own_end_in_the_bits_of_a_local_run(
    folder, quick, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    settings = {"engine": {"cohort": "off"}, "rounds": 2}
    usual = quick("fedmd", **settings)
    experiment = usual.replace(data=agreed(folder))
    run(experiment, tmp_path / "local")
    elsewhere = usual.replace(data=agreed(tmp_path / "server has none"))
    silos = Silos(elsewhere, tuple(HOLDS), tmp_path / "sites")
    for name in HOLDS:
        shutil.copytree(folder / name, tmp_path / "at" / name / name)
        site = Site(
            name=name,
            server="localhost:8000",
            sites=tuple(HOLDS),
            data=tmp_path / "at" / name,
            requests=requests_of(elsewhere),
            engine=EngineSettings(device="cpu"),
        )
        silos.trainers[name] = SiteTrainer(site, elsewhere, tmp_path / "sites" / name)
    result = go_on(elsewhere, tuple(HOLDS), tmp_path / "far", silos)
    assert result.summary["status"] == "complete"
    assert largest_difference_of_all(tmp_path, tmp_path / "far", tmp_path / "local", tuple(HOLDS)) == 0
    assert silos.trainers["west"].client.groups != silos.trainers["north"].client.groups
    assert any("data.path has no folder common" in note for note in result.summary["notes"])
