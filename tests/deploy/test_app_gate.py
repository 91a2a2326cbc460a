"""The gate of a site: Flower installs and runs the app that the site has pinned, and no other."""

import hashlib
import os
import subprocess
import types
from pathlib import Path

import pytest

from fedloom.deploy.app_bundle import OTHERS, pinned_app, write_app, write_gates
from fedloom.deploy.app_gate import AnotherApp, guard

build = pytest.importorskip("flwr.cli.build").build_fab_from_disk


def flower(
    content: bytes, *, hash_str: str | None = None, name: str = "fedloom/fedloom-deployment", version="1.0.0"
):
    """Flower's module as far as the gate touches it, with a task that brings these bytes; and what it installed."""
    installed: list[bytes] = []
    run = types.SimpleNamespace(fab_id=name, fab_version=version)
    bundle = types.SimpleNamespace(hash_str=hash_str or hashlib.sha256(content).hexdigest(), content=content)
    module = types.SimpleNamespace(
        pull_task_input=lambda client: ("message", "context", run, bundle),
        install_from_fab=lambda content, skip_prompt=False: installed.append(content),
    )
    return module, installed


def pull_and_install(module) -> None:
    *_, bundle = module.pull_task_input("client")
    module.install_from_fab(bundle.content, skip_prompt=True)


@pytest.fixture
def own(tmp_path) -> bytes:
    write_app(tmp_path / "app")
    return build(tmp_path / "app")


def test_the_apps_own_bundle_is_installed(own) -> None:
    notes: list[str] = []
    module, installed = flower(own)
    guard(module, pinned_app(), notes.append)
    pull_and_install(module)
    assert installed == [own]
    assert notes == []


def test_an_app_with_one_more_file_is_refused_before_it_is_unpacked(tmp_path) -> None:
    notes: list[str] = []
    write_app(tmp_path / "app")
    (tmp_path / "app" / "evil.md").write_text("import os")
    other = build(tmp_path / "app")
    module, installed = flower(other)
    guard(module, pinned_app(), notes.append)
    with pytest.raises(AnotherApp, match="this site runs the app") as refusal:
        pull_and_install(module)
    assert installed == []
    assert notes == [str(refusal.value)]
    assert hashlib.sha256(other).hexdigest()[:16] in notes[0]
    assert pinned_app()[:16] in notes[0]


@pytest.mark.parametrize(
    "lie",
    [
        {"hash_str": "0" * 64},
        {"name": "../../elsewhere/app"},
        {"name": "fedloom/other"},
        {"version": "2.0.0"},
    ],
)
def test_the_own_bundle_under_another_hash_or_name_is_refused(lie, own) -> None:
    """Flower loads what lies under the name, version and hash that the server gives."""
    notes: list[str] = []
    module, installed = flower(own, **lie)
    guard(module, pinned_app(), notes.append)
    with pytest.raises(AnotherApp):
        pull_and_install(module)
    assert installed == []
    assert len(notes) == 1


def test_a_flower_without_these_parts_is_not_run_unguarded() -> None:
    with pytest.raises(RuntimeError, match="install_from_fab"):
        guard(types.SimpleNamespace(pull_task_input=lambda client: None), "0" * 64, print)


def test_this_flower_has_the_parts_and_calls_them_by_their_names() -> None:
    import inspect

    module = pytest.importorskip("flwr.supernode.runtime.run_clientapp")
    source = inspect.getsource(module.run_clientapp)
    pulls, installs = source.index("pull_task_input(client)"), source.index("install_from_fab(fab.content")
    loads = source.index("load_client_app_fn(\n")
    assert pulls < installs < loads


def test_a_folder_of_gates_with_a_blank_in_its_name_refuses_all_other_programs(tmp_path) -> None:
    gates = write_gates(tmp_path / "a site")
    assert {f.name for f in gates.iterdir()} == {"flwr-clientapp", *OTHERS}
    assert all(f.stat().st_mode & 0o777 == 0o700 for f in gates.iterdir())
    env = {**os.environ, "FEDLOOM_TRAINER": str(tmp_path / "trainer.json"), "FEDLOOM_APP": "0" * 64}
    done = subprocess.run([gates / "flwr-agentapp", "--token", "x"], env=env, capture_output=True)
    assert done.returncode == 1
    said = (tmp_path / "turned-away").read_text()
    assert said == "flwr-agentapp is no program that a site runs\n"


def test_the_gate_starts_flowers_own_program(tmp_path) -> None:
    gates = write_gates(tmp_path / "gates")
    env = {**os.environ, "FEDLOOM_TRAINER": str(tmp_path / "trainer.json"), "FEDLOOM_APP": "0" * 64}
    done = subprocess.run([gates / "flwr-clientapp", "--help"], env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--runtime-api-address" in done.stdout
    assert not Path(tmp_path / "turned-away").exists()
