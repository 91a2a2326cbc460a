"""Mistakes at a site, and what its people are told: one sentence each, and no harm to a site that runs."""

import os
import threading
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import try_lock
from fedloom.deploy import run_site, site_checks
from fedloom.deploy.commands import app
from fedloom.deploy.reach import CONNECTED, FAILED, FIRST, Reach
from fedloom.deploy.settings import Deployment
from fedloom.deploy.site_kit import write_kit
from fedloom.experiment.settings import Experiment
from tests.deploy.silos import said_into


@pytest.fixture
def folder(quick, tmp_path) -> Path:
    """The folder of the site north, which generates its data, with its terms accepted."""
    write_kit(tmp_path / "kit", quick("fedsa-lora"), Deployment(sites=("north",)))
    site = tmp_path / "kit/sites/north"
    run_site.accept(site)
    return site


def change(folder: Path, **fields: object) -> None:
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **fields}))


@pytest.mark.parametrize("part", ["both", "trainer", "node"])
def test_a_second_start_beside_one_that_runs_is_refused_and_takes_nothing_from_it(folder, part) -> None:
    (folder / "trainer.json").write_text("the first one's")
    if part == "node":
        (folder / "experiment.yaml").unlink()
    with try_lock(folder) as held:
        assert held
        with pytest.raises(ExperimentError, match=rf"^north runs already \(process {os.getpid()}\)"):
            run_site.run_site(folder, said_into([]), lambda: False, part)
    assert (folder / "trainer.json").read_text() == "the first one's"


def test_the_nodes_half_in_a_whole_folder_is_one_sentence(folder) -> None:
    (folder / "trainer.json").write_text("another's")
    with pytest.raises(ExperimentError, match=r"is a whole site's folder.*--hand-over"):
        run_site.run_site(folder, said_into([]), lambda: False, "node")
    assert (folder / "trainer.json").exists()


def test_a_trainer_whose_file_is_gone_is_said_and_started_again(folder, monkeypatch) -> None:
    log: list[str] = []
    shell = ["/bin/sh", "-c", f"echo x >> {folder}/starts; touch {folder}/trainer.json; exec sleep 60"]
    monkeypatch.setattr(run_site, "_trainer", lambda f: shell)
    monkeypatch.setattr(run_site, "_node", lambda f, s, t: ["/bin/sleep", "60"])
    monkeypatch.setattr("fedloom.deploy.keeping.FIRST", 0.0)
    monkeypatch.setattr(run_site.time, "sleep", lambda seconds: threading.Event().wait(0.02))
    starts = folder / "starts"
    removed = False

    def go_on() -> bool:
        nonlocal removed
        if not removed and any("joins" in line for line in log):
            (folder / "trainer.json").unlink()
            removed = True
        return starts.read_text().count("x") < 2 if starts.exists() else True

    run_site.run_site(folder, said_into(log), go_on)
    assert (
        sum("trainer.json" in line and "is gone; the trainer is started again" in line for line in log) == 1
    )


BIRDS = ("sea eagle", "kite")


def birds(tmp_path: Path) -> Experiment:
    partition = {"kind": "folder", "base": list(BIRDS)}
    data = {
        "source": "classes",
        "dataset": "birds",
        "path": str(tmp_path / "nowhere"),
        "partition": partition,
    }
    return Experiment.parse(
        {
            "method": "pfedmma",
            "rounds": 1,
            "data": data,
            "training": {"optimizer": "sgd", "lr": 0.001, "clip": None},
        }
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("srv/north", "one folder too deep: right is the folder above it, .*/srv"),
        ("srv/north/kite", "holds no folder north"),
        ("other", "which does not exist; name the folder that holds the folder north"),
        (None, "data is not set, and .*/nowhere is meant, which does not exist"),
        ("srv/north/kite/0.png", "which is no folder"),
        ("srv", None),
    ],
)
def test_a_data_folder_that_is_none_or_too_deep_is_named(data, says, tmp_path) -> None:
    for name in BIRDS:
        place = tmp_path / "srv/north" / name.replace(" ", "_")
        place.mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(place / "0.png")
    write_kit(tmp_path / "kit", birds(tmp_path), Deployment(sites=("north",)))
    site = tmp_path / "kit/sites/north"
    change(site, data=None if data is None else str(tmp_path / data))
    found = run_site.missing(site)
    if says is None:
        assert found == []
        return
    assert len(found) == 1
    shown = CliRunner().invoke(app, ["site", str(site)])
    assert "missing: site.yaml: data" in shown.output
    run_site.accept(site)
    with pytest.raises(ExperimentError, match=rf"^north does not join: site.yaml: .*{says}"):
        run_site.run_site(site, said_into([]), lambda: False)


def test_a_relative_folder_says_where_it_was_looked_for(tmp_path, monkeypatch) -> None:
    write_kit(tmp_path / "kit", birds(tmp_path), Deployment(sites=("north",)))
    change(tmp_path / "kit/sites/north", data="srv")
    monkeypatch.chdir(tmp_path)
    [sentence] = run_site.missing(tmp_path / "kit/sites/north")
    assert f"looked for in {tmp_path}" in sentence


def test_pictures_without_class_folders_are_one_sentence(tmp_path) -> None:
    for name in ("north", "common"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "north/0.png")
    fields = birds(tmp_path).as_dict()
    fields["data"]["path"] = str(tmp_path)
    with pytest.raises(
        ExperimentError, match=r"north holds no folder of a class; right is .*/north/<class>/<image>"
    ):
        Experiment.parse(fields).data.deal(0)


@pytest.mark.parametrize("data", ["", "  "])
def test_an_empty_data_folder_is_refused(data, folder) -> None:
    change(folder, data=data)
    with pytest.raises(ExperimentError, match=r"site\.yaml: data: .*an empty name is no folder"):
        run_site.missing(folder)


def test_requests_that_the_experiment_does_not_have_are_refused(folder) -> None:
    change(folder, requests=["describe", "evaluate", "tain"])
    run_site.accept(folder)
    with pytest.raises(
        ExperimentError, match="requests names tain, and this experiment has describe, evaluate, train"
    ):
        run_site.run_site(folder, said_into([]), lambda: False)


@pytest.mark.parametrize("name", ["node.key", "signing.key"])
def test_a_private_key_that_others_may_read_is_refused(name, folder) -> None:
    (folder / name).chmod(0o640)
    with pytest.raises(ExperimentError, match=rf"may read .*{name}, a private key; type `chmod 600"):
        run_site.run_site(folder, said_into([]), lambda: False)
    (folder / name).chmod(0o600)
    run_site.run_site(folder, said_into([]), lambda: False)


def test_a_device_that_is_not_here_is_missing_in_the_terms(folder, monkeypatch) -> None:
    monkeypatch.setattr(site_checks.torch.cuda, "is_available", lambda: False)
    change(folder, engine={"device": "cuda"})
    [sentence] = run_site.missing(folder)
    assert "engine.device: cuda is not available here" in sentence


def test_a_site_without_its_key_says_so(folder) -> None:
    (folder / "node.key").unlink()
    [sentence] = run_site.missing(folder)
    assert "there is no" in sentence
    assert "node.key" in sentence


def test_an_unreachable_server_is_said_at_growing_intervals_and_its_return_once() -> None:
    now, said = [0.0], []
    reach = Reach("fl.example.org:443", lambda: now[0])
    log = f"WARNING: {FAILED}, retrying in 3 seconds\n"
    while now[0] < 200:
        if news := reach.news(log, now[0]):
            said.append((now[0], news))
        now[0] += 1.0
    assert [when for when, _ in said] == [10, 30, 70, 150]
    assert said[0][1].startswith("the server at fl.example.org:443 cannot be reached, for 10 s so far")
    log += f"INFO: {CONNECTED} after 200 seconds and 9 tries.\n"
    assert reach.news(log, now[0]) == "the server at fl.example.org:443 is reached again"
    assert reach.news(log, now[0]) is None
    assert reach.news(f"{log}{FAILED}", now[0]) is None, "a short interruption is no news"


def test_a_node_that_was_started_again_and_has_no_failure_is_connected() -> None:
    now = [0.0]
    reach = Reach("x:1", lambda: now[0])
    assert reach.news(FAILED, 0.0) is None
    now[0] = FIRST
    assert reach.news(FAILED, FIRST) is not None
    assert reach.news("", 1.0) is None, "a fresh start tells nothing yet"
    assert reach.news("", FIRST) == "the server at x:1 is reached again"
