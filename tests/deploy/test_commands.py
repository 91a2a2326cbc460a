"""The commands that need no running server, and what the ServerApp does about the current run."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedloom.deploy import current
from fedloom.deploy.commands import app
from fedloom.deploy.kit import write_kit
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.errors import ExperimentError
from fedloom.runfolder import RunFolder
from tests.deploy.silos import Silos

NAMES = ("image-01", "image-02")


def invoke(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, ExperimentError):
        return 2, str(done.exception)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def kit(quick, tmp_path) -> Path:
    data = {"clients": {"image": 2}, "train": 6, "test": 1}
    experiment = quick("fedsa-lora", data=data, engine={"cohort": "off"})
    deployment = Deployment(sites=NAMES, join_timeout=0.1, rejoin_timeout=0.0)
    write_kit(tmp_path / "kit", experiment, deployment)
    return tmp_path / "kit" / "server"


def test_init_names_the_generated_clients_and_shows_where_things_lie(tmp_path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(
        "{rounds: 2, method: fedavg-lora, data: {clients: {image: 1, audio: 1}, train: 4, test: 1}}"
    )
    code, told = invoke("init", tmp_path / "kit", file, "--host", "fl.example.org", "--direct")
    assert code == 0, told
    assert "offline" in told
    deployment = read_settings(Deployment, tmp_path / "kit/server/deployment.yaml")
    assert (deployment.sites, deployment.bind) == (("audio-01", "image-01"), "127.0.0.1")
    assert read_settings(Site, tmp_path / "kit/sites/image-01/site.yaml").server == "fl.example.org:8000"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--site", "a", "--site", "a"], "two sites have one name"),
        (["--site", "../up"], "no site's name"),
        (["method=centralised", "--site", "a"], "pools"),
        (["method=nothing", "--site", "a"], "unknown method"),
    ],
)
def test_a_mistake_at_init_is_one_sentence_and_leaves_nothing(more, named, tmp_path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("{rounds: 2, method: fedavg-lora}")
    code, told = invoke("init", tmp_path / "kit", file, *more)
    assert code == 2
    assert named in told
    assert not (tmp_path / "kit").exists()


def test_a_run_is_begun_shown_and_stopped(kit) -> None:
    assert "no run is current" in invoke("status", kit)[1]
    assert invoke("run", kit, "--run", "first", "--detach")[0] == 0
    told = invoke("status", kit)[1]
    assert "waits for the server" in told
    assert "image-02 not asked yet" in told
    current.fail(kit / "runs" / "first", "the disk is full")
    assert "failed: the disk is full" in invoke("status", kit)[1]
    assert "first stops" in invoke("stop", kit)[1]
    assert "no run is current" in invoke("status", kit)[1]
    code, told = invoke("run", kit, "--run", "../up", "--detach")
    assert code == 2
    assert "no run's name" in told


@pytest.mark.parametrize("command", [["server"], ["run", "--detach"], ["status"], ["site"]])
def test_a_folder_that_is_none_is_one_sentence(command, tmp_path) -> None:
    code, told = invoke(command[0], tmp_path / "none", *command[1:])
    assert code == 2
    assert "fedloom deploy init" in told


def test_whoever_works_on_a_run_is_known_until_it_dies(tmp_path) -> None:
    path = tmp_path / "run"
    with current.at_work(path) as mine:
        assert mine
        assert current.worked_on(path)
    assert not current.worked_on(path)
    child = os.fork()
    if child == 0:
        handle = os.open(path / current.LOCK, os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert not current.worked_on(path), "the system gives back what a killed process held"


class Known(Silos):
    """A carrier that knows who is there."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.away: list[str] = []

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        return [s for s in sites if s in self.away]


def test_the_servers_app_waits_fails_stops_and_goes_on(kit, tmp_path) -> None:
    from fedloom.runner import read_experiment

    silos = Known(read_experiment(kit), NAMES, tmp_path / "sites")
    carrier: Callable[[float, float], Known] = lambda timeout, poll: silos  # noqa: E731
    current.serve_current(kit, carrier)
    assert silos.asked == [], "no run is current"
    path = current.begin(kit, "first")
    silos.away = ["image-02"]
    with pytest.raises(ExperimentError, match="image-02 has not joined"):
        current.serve_current(kit, carrier)
    assert "image-02 has not joined" in (current.failure(path) or "")
    silos.away = []
    current.begin(kit, "first")
    assert current.failure(path) is None

    def stop_in_round_2(name: str, question: bytes) -> Any:
        if (path / "state" / "round-000001").exists():
            current.end(kit)
        yield name, silos.trainer(name).answer(question)

    silos.between = stop_in_round_2
    current.serve_current(kit, carrier)
    assert not current.finished(path)
    assert current.failure(path) is None
    silos.between = None
    current.begin(kit, "first")
    with current.at_work(path):
        before = len(silos.asked)
        current.serve_current(kit, carrier)
        assert len(silos.asked) == before, "somebody else is at work"
    silos.away = ["image-02"]  # known from before: gone on without waiting for it
    current.serve_current(kit, carrier)
    assert current.finished(path)
    assert RunFolder(path).history("ledger.jsonl")[-1]["round"] == 2
    current.serve_current(kit, carrier)
    assert "finished" in invoke("status", kit)[1]
