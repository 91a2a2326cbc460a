"""The watched page of a deployment: the server's folder, the kit, and a site's folder."""

from pathlib import Path
from typing import Any

import pytest

from fedloom.core.folder_lock import locked
from fedloom.deploy import current_run as current
from fedloom.deploy import run_site
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Deployment
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.watched import deployment
from fedloom.experiment.watch.folder_view import FolderView
from fedloom.federation.progress import Progress
from tests.deploy.silos import Killed, Silos

NAMES = ("image-01", "image-02")


def page(folder: Path) -> dict[str, Any]:
    return FolderView(folder, deployment).snapshot()


def headline(folder: Path) -> str:
    text: str = page(folder)["status"]["headline"]
    return text


def test_a_deployment_from_its_kit_to_its_end(quick, tmp_path: Path) -> None:
    experiment = quick(
        "fedsa-lora", data={"clients": {"image": 2}, "train": 6, "test": 1}, engine={"cohort": "off"}
    )
    write_kit(tmp_path / "kit", experiment, Deployment(sites=NAMES))
    server, site = tmp_path / "kit" / "server", tmp_path / "kit" / "sites" / "image-01"
    assert headline(server) == "Waiting: no run is current; fedloom deploy run begins one"
    assert page(server)["tables"][0]["lines"] == [[name, "not asked yet"] for name in NAMES]
    assert headline(site).startswith("Waiting: the terms are not accepted")
    path = current.begin(server, "first")
    assert headline(server) == "Waiting for the server: run first begins once fedloom deploy server runs"
    with locked(path):
        assert headline(server) == "Waiting for the sites (run first)"
    silos, seen = Silos(experiment, NAMES, tmp_path / "sites"), []

    def kill(progress: Progress) -> None:
        seen.append(headline(server))
        if progress.round == 1 and progress.client is None:
            raise Killed

    with locked(path), pytest.raises(Killed):
        go_on(experiment, NAMES, path, silos, kill)
    assert seen[0] == "Running: round 1 of 2 (run first)"
    lines = (path / "state" / "events.jsonl").read_text().splitlines(keepends=True)
    (path / "state" / "events.jsonl").write_text("".join(lines[:-1]))  # SIGKILL leaves no word
    assert headline(server) == (
        "The server does not work on run first now, after round 1 of 2; fedloom deploy server goes on with it"
    )
    current.end(server)
    assert headline(server) == (
        f"Stopped after round 1 of 2; fedloom deploy run {server} --run first goes on with it"
    )
    current.begin(server, "first")
    current.fail(path, "site image-02 has not joined")
    assert headline(server) == "Failed after round 1 of 2: site image-02 has not joined (run first)"
    current.begin(server, "first")
    with locked(path):
        go_on(experiment, NAMES, path, silos)
    found = page(tmp_path / "kit")
    assert found["status"]["headline"] == "Ended: complete; resumed once, after round 1 (run first)"
    assert found["status"]["seams"] == [1]
    [clients] = [t for t in found["tables"] if t["key"] == "clients"]
    assert [[line[0], *line[3:]] for line in clients["lines"]] == [
        [name, "image", "6", "1"] for name in NAMES
    ]
    assert [line[1]["text"] for line in clients["lines"]] == ["round 2", "round 2"]


def test_a_site_shows_its_terms_and_the_answers_that_it_keeps(quick, tmp_path: Path) -> None:
    experiment = quick("fedsa-lora", data={"clients": {"image": 2}, "train": 6, "test": 1})
    write_kit(tmp_path / "kit", experiment, Deployment(sites=NAMES))
    site = tmp_path / "kit" / "sites" / "image-01"
    run_site.accept(site)
    assert headline(site).startswith("Not running: nothing asked yet")
    (site / "trainer.json").write_text("{}")
    answers = site / "runs" / "abc" / "answers"
    answers.mkdir(parents=True)
    (answers / "000003-000-0123").write_bytes(b"")
    found = page(site)
    assert found["status"]["headline"] == "At work: last answer in round 3"
    assert found["tables"][0]["lines"][0][::2] == ["3", "abc"]
    assert dict(found["facts"])["site"] == "image-01"
