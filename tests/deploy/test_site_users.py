"""A site whose trainer and node run as two users. What takes root is tried as root, with users that every system has."""

import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedloom.core.errors import ExperimentError
from fedloom.deploy import run_site, site_users
from fedloom.deploy.commands import app
from fedloom.deploy.settings import Deployment
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.site_users import User, hand_over, run_halves
from fedloom.deploy.trainer_link import _write_endpoint, endpoint
from tests.deploy.silos import said_into

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users by root alone")


@pytest.fixture
def folder(quick) -> Iterator[Path]:
    """A site's folder below one that everybody may enter, as pytest's own is not."""
    place = Path(tempfile.mkdtemp(prefix="fedloom-users-"))
    place.chmod(0o711)
    write_kit(place / "kit", quick("fedsa-lora"), Deployment(sites=("north",)))
    site = place / "north"
    (place / "kit/sites/north").rename(site)
    run_site.accept(site)
    (site / "runs/a/personal").mkdir(parents=True)
    (site / "runs/a/personal/000001-000.safetensors").write_text("x")
    yield site
    shutil.rmtree(place)


@pytest.fixture
def users() -> tuple[User, User]:
    return User.of("nobody"), User.of("daemon")


@as_root
def test_each_user_reads_its_own_half_and_nothing_of_the_other(folder, users) -> None:
    trainer, node = users
    hand_over(folder, trainer, node)
    _write_endpoint(endpoint(folder), 1234, b"s" * 32)
    os.chown(endpoint(folder), trainer.uid, -1)  # as the trainer writes it
    assert endpoint(folder) == folder / "node/trainer.json"
    trainers = [
        "experiment.yaml",
        "signing.key",
        "sites.json",
        "accepted.json",
        "runs/a/personal",
        "site.yaml",
    ]
    for name in (*trainers, "runs/a/personal/000001-000.safetensors"):
        assert trainer.may("-r", folder / name), name
        assert not node.may("-r", folder / name), name
    for name in ("node.key", "ca.pem", "site.yaml", "trainer.json"):
        assert node.may("-r", folder / "node" / name), name
    assert not trainer.may("-r", folder / "node/node.key")
    assert not node.may("-r", folder), "it does not even list the folder"
    assert node.may("-w", folder / "node")
    assert trainer.may("-w", folder / "node")
    assert trainer.may("-w", folder), "a new list of sites is written here"
    assert not User.of("sys").may("-r", folder / "node/trainer.json"), "the secret is the two users' alone"
    assert not (folder / "node.key").exists()


@as_root
def test_a_folder_is_handed_over_once(folder, users) -> None:
    trainer, node = users
    hand_over(folder, trainer, node)
    before = {p: (p.lstat().st_uid, p.lstat().st_mode) for p in folder.rglob("*")}
    hand_over(folder, trainer, node)
    assert {p: (p.lstat().st_uid, p.lstat().st_mode) for p in folder.rglob("*")} == before
    with pytest.raises(ExperimentError, match="was given to other users: nobody, and the group daemon"):
        hand_over(folder, User.of("sys"), node)
    with pytest.raises(ExperimentError, match="divided between two users; start it as root"):
        run_site.run_site(folder, said_into([]), lambda: False)


@as_root
def test_data_that_the_node_could_read_and_data_that_the_trainer_cannot_are_refused(folder, users) -> None:
    data = folder.parent / "data"
    data.mkdir(mode=0o755)
    fields = yaml.safe_load((folder / "site.yaml").read_text())
    (folder / "site.yaml").write_text(yaml.safe_dump({**fields, "data": str(data)}))
    with pytest.raises(ExperimentError, match="daemon, who speaks to the server, can read the data"):
        hand_over(folder, *users)
    data.chmod(0o700)
    with pytest.raises(ExperimentError, match="nobody cannot read the data"):
        hand_over(folder, *users)
    os.chown(data, users[0].uid, users[0].gid)
    hand_over(folder, *users)


@as_root
def test_both_halves_run_as_their_users_and_end_together(folder, users, monkeypatch) -> None:
    trainer, node = users
    hand_over(folder, trainer, node)
    script = (
        'id -un > "$0/who"; cat "$1" > "$0/read" 2>/dev/null; trap "echo > $0/ended; exit" TERM; echo > "$0/ready"; '
        "sleep 60 & wait"
    )
    others = {"trainer": folder / "node/node.key", "node": folder / "signing.key"}
    command = lambda place, part: ["/bin/sh", "-c", script, str(place), str(others[part])]  # noqa: E731
    monkeypatch.setattr(site_users, "_command", command)
    places = (folder, folder / "node")
    until = time.monotonic() + 20
    run_halves(
        folder,
        trainer,
        node,
        lambda: time.monotonic() < until and not all((p / "ready").exists() for p in places),
    )
    assert [(p / "who").read_text().strip() for p in places] == ["nobody", "daemon"]
    assert [(p / "read").read_text() for p in places] == ["", ""], "neither reads the other's key"
    assert all((p / "ended").exists() for p in places)
    monkeypatch.setattr(site_users, "_command", lambda place, part: ["/bin/sh", "-c", "exit 2"])
    with pytest.raises(ExperimentError, match="ended with 2; its own message is above"):
        run_halves(folder, trainer, node, lambda: True)
    monkeypatch.setattr(site_users, "_command", lambda place, part: ["/opt/of/nobody"])
    with pytest.raises(ExperimentError, match="nobody cannot run /opt/of/nobody"):
        run_halves(folder, trainer, node, lambda: True)


def test_users_that_cannot_be_taken_are_one_sentence(folder, users, monkeypatch) -> None:
    for name, match in [
        ("root", "is root"),
        ("no such user", "no user 'no such user'"),
        ("0", "no user '0'"),
    ]:
        with pytest.raises(ExperimentError, match=match):
            User.of(name)
    assert User.of("2001").gid == 2001
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ExperimentError, match="in common"):
        hand_over(folder, users[0], users[0])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ExperimentError, match="by root alone"):
        hand_over(folder, *users)
    assert (folder / "node.key").exists(), "nothing was moved"


def test_a_half_starts_its_own_process_alone(folder, monkeypatch) -> None:
    started, log = folder / "started", []

    def command(name: str) -> list[str]:
        return ["/bin/sh", "-c", f"echo {name} >> {started}; exec sleep 60"]

    monkeypatch.setattr(run_site, "_trainer", lambda f: command("trainer"))
    monkeypatch.setattr(run_site, "_node", lambda f, s, t: command("node"))
    monkeypatch.setattr(run_site.time, "sleep", lambda seconds: threading.Event().wait(0.01))
    for part in ("trainer", "node"):
        started.write_text("")
        if part == "node":
            (folder / "trainer.json").write_text("{}")
            (folder / "experiment.yaml").unlink()  # as in the node's own folder
        run_site.run_site(folder, said_into(log), lambda: not started.read_text().endswith("\n"), part)
        assert started.read_text().split() == [part]
    assert log == ["north: joins localhost:443"]
    assert (folder / "trainer.json").exists(), "the trainer's file is not the node's to remove"


def test_the_secret_is_the_groups_only_in_a_folder_that_is_shared(tmp_path) -> None:
    for name, mode, file_mode in [("plain", 0o700, 0o600), ("shared", 0o3770, 0o640)]:
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        _write_endpoint(tmp_path / name / "trainer.json", 1, b"s")
        assert stat.S_IMODE((tmp_path / name / "trainer.json").stat().st_mode) == file_mode


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer-user", "nobody"],
        ["--node-user", "daemon"],
        ["--hand-over"],
        ["--trainer-user", "nobody", "--node-user", "daemon", "--part", "trainer"],
    ],
)
def test_options_for_two_users_stand_together(options, folder) -> None:
    done = CliRunner().invoke(app, ["site", str(folder), *options])
    assert isinstance(done.exception, ExperimentError)
    assert "stand together" in str(done.exception)
    assert (folder / "node.key").exists()
