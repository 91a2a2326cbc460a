"""Trackers against the real libraries, without network: what a killed and resumed run leaves in each store; and faults."""

import json
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment
from fedloom.experiment.tracking import settings as tracker_settings
from fedloom.federation.progress import Progress
from tests.experiment.small_run import SETTINGS, kill_in_round_two, quick_runs
from tests.experiment.tracking import stores

ALL = ["tensorboard", "wandb", "mlflow"]
CONTROLLED: dict[str, Any] = {
    "method": {"name": "fedsa-lora", "unseen": "mean_b"},  # which has a common model, and so controls
    "evaluation": {"controls": True, "samples": 1},
}


def experiment(track: Any, **settings: Any) -> Experiment:
    return Experiment.parse({**SETTINGS, **settings, "track": track})


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with quick_runs():
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without trackers."""
    folder = tmp_path_factory.mktemp("plain") / "r"
    fedloom.run(experiment([], **CONTROLLED), folder)
    return folder


@pytest.fixture(scope="module")
def reached() -> list[Any]:
    """Addresses that anything in this process looked up or connected to."""
    return []


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, reached: list[Any]) -> Path:
    """The same run with all trackers, killed in round two and resumed."""
    folder = tmp_path_factory.mktemp("tracked") / "r"
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connected(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX:
            reached.append(address)
        return connect(self, address)

    def looked_up(host: Any, *others: Any, **options: Any) -> Any:
        reached.append(host)
        return look_up(host, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connected)
        patch.setattr(socket, "getaddrinfo", looked_up)
        kill_in_round_two(lambda: fedloom.run(experiment(ALL, **CONTROLLED), folder))
        fedloom.run(experiment(ALL, **CONTROLLED), folder, resume=True)
    return folder


def recorded(folder: Path, tracker: str) -> str:
    return json.loads((folder / "state" / "tracking.json").read_text())[tracker]["id"]


def wanted(folder: Path) -> stores.Points:
    """The points that the run's own files give: every figure once for each round."""
    points: stores.Points = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        points.setdefault(line["name"], []).append((line["round"], round(line["value"], 6)))
    for entry in map(json.loads, (folder / "ledger.jsonl").read_text().splitlines()):
        figures = {"bytes_up": entry["bytes_up"], "answered": len(entry["answered"]), "refused": 0}
        for name, value in figures.items():
            points.setdefault(f"round/{name}", []).append((entry["round"], value))
    return points


def points_of(folder: Path, tracker: str) -> stores.Points:
    if tracker == "tensorboard":
        return stores.tensorboard(folder / "tensorboard")[0]
    if tracker == "mlflow":
        return stores.mlflow(f"sqlite:///{folder / 'mlflow.db'}", recorded(folder, "mlflow"))[0]
    joined: stores.Points = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for name, values in stores.wandb(file)[0].items():
            joined.setdefault(name, []).extend(values)
    return joined


def close(found: stores.Points, right: stores.Points) -> None:
    for name, points in right.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-5), name


@pytest.mark.parametrize("tracker", ALL)
def test_every_round_stands_once_in_the_store_after_a_kill_and_a_resume(tracked: Path, tracker: str) -> None:
    found, right = points_of(tracked, tracker), wanted(tracked)
    assert [step for step, _ in right["train/loss"]] == [1, 2]
    assert [step for step, _ in right["control/image/removed/token_accuracy"]] == [2]
    if tracker == "wandb":  # which holds them in its summary
        right = {name: points for name, points in right.items() if not name.startswith("control/")}
    close(found, right)
    own = {name for name in found if name.startswith("client/")}
    assert "client/image-01/image/token_accuracy" in own
    assert [step for step, _ in found["round/seconds"]] == [1, 2]
    assert {*found} - {*right} - own == {"round/asked", "round/bytes_down", "round/left_out", "round/seconds"}


def test_tensorboard_holds_settings_and_status(tracked: Path) -> None:
    _, texts = stores.tensorboard(tracked / "tensorboard")
    assert texts["settings"].count("training.batch_size: 4") == 1
    assert texts["status"].splitlines() == ["stopped after round 1", "complete"]


def test_an_offline_wandb_run_goes_on_under_its_id(tracked: Path) -> None:
    first, second = (
        stores.wandb(file)[1] for file in sorted(tracked.glob("wandb/offline-run-*/run-*.wandb"))
    )
    assert first["id"] == second["id"] == recorded(tracked, "wandb")
    assert (first["config"]["training.batch_size"], first["config"]["method.name"]) == (4, "fedsa-lora")
    assert (first["exit"], first["summary"]["status"]) == (1, "stopped after round 1")
    assert (second["exit"], second["summary"]["status"]) == (0, "complete")
    [[(_, removed)]] = (p for n, p in wanted(tracked).items() if n == "control/image/removed/token_accuracy")
    assert second["summary"]["control/image/removed/token_accuracy"] == pytest.approx(removed, rel=1e-5)
    assert not list(tracked.glob("wandb/offline-run-*/files/requirements.txt"))


def test_mlflow_holds_one_run_with_parameters_and_status(tracked: Path) -> None:
    _, run = stores.mlflow(f"sqlite:///{tracked / 'mlflow.db'}", recorded(tracked, "mlflow"))
    assert run.data.params["training.batch_size"] == "4"
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "complete")
    assert run.info.run_name == "experiment-fedsa-lora-seed-0"


def test_nothing_outside_is_reached_and_no_figure_changes(
    tracked: Path, plain: Path, reached: list[Any]
) -> None:
    assert reached == []
    assert (tracked / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    model = sorted(p.relative_to(plain) for p in (plain / "model").rglob("*.safetensors"))
    assert model
    assert all((tracked / p).read_bytes() == (plain / p).read_bytes() for p in model)


def test_a_store_that_is_lost_is_filled_again_on_resume(tracked: Path, tmp_path: Path) -> None:
    shutil.copytree(tracked, tmp_path / "r", symlinks=True)
    shutil.rmtree(tmp_path / "r" / "tensorboard")
    other = experiment(["tensorboard"], **CONTROLLED)  # other trackers are no change of the run
    fedloom.run(other, tmp_path / "r", resume=True)
    close(points_of(tmp_path / "r", "tensorboard"), wanted(tmp_path / "r"))


def test_a_tracker_that_fails_in_the_middle_is_said_once_and_the_run_goes_on(
    plain: Path, tmp_path: Path
) -> None:
    notes: list[tuple[int, str]] = []

    def watch(progress: Progress) -> None:
        notes.extend((progress.round, note) for note in progress.notes if "tracker" in note)
        if progress.round == 0 and progress.client is None:
            shutil.rmtree(tmp_path / "events")
            (tmp_path / "events").write_text("no folder")

    track = {"tensorboard": {"folder": str(tmp_path / "events")}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fedloom.run(experiment(track, **CONTROLLED), tmp_path / "r", observe=watch)
    [(round, note)] = notes
    assert round == 1
    assert note.startswith("the tracker tensorboard stopped in round 1 (")
    assert note.endswith("; the run goes on without it")
    assert result.summary["status"] == "complete, but the tracker tensorboard stopped in round 1"
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()


def test_a_server_that_is_not_there_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    track = {"mlflow": {"uri": f"http://127.0.0.1:{port}"}}
    notes: list[str] = []
    result = fedloom.run(experiment(track, rounds=1), tmp_path / "r", observe=lambda p: notes.extend(p.notes))
    assert sum("the tracker mlflow stopped before the first round" in note for note in notes) == 1
    assert result.summary["status"].startswith("complete, but the tracker mlflow stopped before")


def test_runs_share_a_folder_of_event_files_without_mixing(tmp_path: Path) -> None:
    track = {"tensorboard": {"folder": str(tmp_path / "events"), "clients": 1}}
    for name in "ab":
        fedloom.run(experiment(track, rounds=1), tmp_path / name)
    folders = sorted(tmp_path.glob("events/*"))
    assert [f.name for f in folders] == ["experiment-fedsa-lora-seed-0", "experiment-fedsa-lora-seed-0-2"]
    points, _ = stores.tensorboard(folders[1])
    assert [step for step, _ in points["train/loss"]] == [1]
    assert not [name for name in points if "image-01" in name]  # two clients are more than one


@pytest.mark.parametrize(
    ("track", "says"),
    [
        ("tensorbord", "track: there is no tracker 'tensorbord'; known are tensorboard, wandb, mlflow"),
        ([{"name": "wandb"}], r"track: should be names, such as \[tensorboard, mlflow\], or a mapping"),
        ({"wandb": None}, "track: wandb is empty; write {} for its defaults, or leave it out"),
        ({"wandb": {"projekt": "x"}}, "unknown key track.wandb.projekt; did you mean project"),
        ({"mlflow": {"uri": "mlruns"}}, "track.mlflow: uri should be a database or a server, such as sqlite"),
        (
            {"mlflow": {"uri": "https://me:secret@host"}},
            "track.mlflow: uri should hold no password.*MLFLOW_TRACKING_USERNAME",
        ),
    ],
)
def test_a_wrong_tracker_is_one_sentence(track: Any, says: str) -> None:
    with pytest.raises(ExperimentError, match=says) as refusal:
        experiment(track)
    assert "secret" not in str(refusal.value)


def test_names_and_settings_are_layers_of_one_group() -> None:
    first = experiment(["tensorboard"])
    second = first.replace(**{"track.tensorboard.folder": "events", "track.wandb.project": "silos"})
    assert second.as_dict()["track"] == {
        "tensorboard": {"clients": None, "folder": "events"},
        "wandb": {
            "clients": None,
            "mode": "offline",
            "project": "silos",
            "entity": None,
            "folder": None,
        },
    }
    assert Experiment.from_record(second.as_dict(), "the record").track == second.track
    assert list(second.replace(track="mlflow").track.chosen()) == ["mlflow"]
    assert second.replace(track=[]).track.chosen() == {}
    assert [
        s.most_clients for s in second.replace(**{"track.wandb.mode": "online"}).track.chosen().values()
    ] == [10, 0]


def test_what_is_missing_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: Any) -> Any:
        raise AssertionError("data were loaded")

    monkeypatch.setattr("fedloom.experiment.run.load_clients", loaded)
    monkeypatch.setattr("fedloom.experiment.build.load_clients", loaded)
    with pytest.raises(
        ExperimentError, match=r"set track\.tensorboard\.folder, or name a folder for the run"
    ):
        fedloom.run(experiment("tensorboard"))
    monkeypatch.setattr(tracker_settings, "find_spec", lambda name: None)
    with pytest.raises(
        ExperimentError, match=r"^track: wandb needs a package.*: pip install 'fedloom\[wandb\]'$"
    ):
        fedloom.run(experiment("wandb"), tmp_path / "r")
    assert not (tmp_path / "r").exists()
