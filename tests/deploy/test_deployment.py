"""A real deployment on this machine: SuperLink, sites, TLS and keys; strangers turned away; SIGKILL of a part and of all.

Each of these takes a minute or more: `pytest -m deploy` runs them, nothing else does.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloom.core.tensor_files import digest_of, read_checked
from fedloom.deploy import current_run as current
from fedloom.deploy.app_bundle import pinned_app
from fedloom.deploy.certificates import write_node_key
from fedloom.deploy.demo import (
    Loopback,
    free_ports,
    largest_difference,
    largest_difference_of_all,
    loopback,
)
from fedloom.deploy.processes import Child, environment, program
from fedloom.deploy.settings import Deployment, Site, read_settings, write_settings
from fedloom.deploy.systems import experiment_of
from fedloom.experiment.run import run
from fedloom.federation.run_folder import RunFolder
from tests.deploy.nginx import REFUSED, nginx, status_of
from tests.deploy.real import experiment, has_trained, kill_part, trained
from tests.processes import command, kill, processes_below

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]
SITES = ("image-01", "image-02", "image-03")


def own_state(folder: Path) -> dict[str, bytes]:
    """The values of the sites' personal tensors."""
    return {
        site: digest_of(
            read_checked(sorted((folder / "sites" / site).glob("runs/*/personal/*.safetensors"))[-1])
        )
        for site in SITES
    }


def test_the_run_survives_sigkill_of_the_link_and_of_everything_with_the_same_model(tmp_path) -> None:
    chosen = experiment(4)
    with loopback(tmp_path / "d", chosen, SITES) as deployment:
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path, lambda: len(trained(path)) >= 1)
        server = deployment.children["server"].process
        assert server is not None
        kill(next(p for p in processes_below(server.pid) if "superlink" in command(p)))
        deployment.wait(path, lambda: any(has_trained(deployment, site, 3) for site in SITES))
        for name in ("server", *SITES):
            kill_part(deployment, name)
        while current.worked_on(path):  # a killed process takes a moment to go
            time.sleep(0.1)
        assert not current.finished(path)
        deployment.start()
        deployment.wait(path)
        kept = own_state(tmp_path / "d")
    run(chosen, tmp_path / "local")
    assert [(e["round"], e["answered"], e["refused"]) for e in trained(path)] == [
        (n, list(SITES), {}) for n in range(1, 5)
    ]
    assert largest_difference(path, tmp_path / "local") == 0
    for site in SITES:
        [file] = (tmp_path / "local" / "state" / "clients" / site).iterdir()
        assert kept[site] == digest_of(read_checked(file))


def test_sites_with_models_of_their_own_survive_sigkill_of_everything_within_a_round(tmp_path) -> None:
    chosen = experiment_of("FedMMKT", 2)
    sites = ("image-01", "image-02", "text-01")
    with loopback(tmp_path / "d", chosen, sites) as deployment:
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path, lambda: has_trained(deployment, "image-01", 2))  # it has kept its predictions
        for name in ("server", *sites):
            kill_part(deployment, name)
        while current.worked_on(path):
            time.sleep(0.1)
        assert not current.finished(path)
        deployment.start()
        deployment.wait(path)
    run(chosen, tmp_path / "local")
    ledger = RunFolder(path).history("ledger.jsonl")
    assert [(e["request"], e["answered"]) for e in ledger if e["request"] != "evaluate"] == [
        (request, list(sites)) for request in ("train", "infer", "distil")
    ]
    assert largest_difference_of_all(tmp_path / "d", path, tmp_path / "local", sites) == 0


def test_strangers_are_turned_away_and_a_site_that_stays_away_is_named_and_rejoins(tmp_path) -> None:
    with loopback(tmp_path / "d", experiment(500), SITES) as deployment:  # until the site is back
        file = deployment.server / "deployment.yaml"
        impatient = read_settings(Deployment, file).model_copy(update={"rejoin_timeout": 1.0})
        write_settings(impatient, file)
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path, lambda: has_trained(deployment, "image-02", 1))
        kill_part(deployment, "image-02")
        deployment.wait(path, lambda: any(e["refused"] for e in trained(path)))
        without_ca, without_key = strangers(deployment, tmp_path)
        missed = next(e for e in trained(path) if e["refused"])
        deployment.start()
        deployment.wait(path, lambda: trained(path)[-1]["answered"] == list(SITES))
    assert "Exit Code: 305" in without_key
    assert "certificate verify failed" in without_ca.lower() or "connection" in without_ca.lower()
    assert missed["answered"] == ["image-01", "image-03"]
    assert list(missed["refused"]) == ["image-02"]


def test_sites_work_through_nginx_and_nobody_else_does(tmp_path) -> None:
    chosen = experiment(2)
    with loopback(tmp_path / "d", chosen, SITES) as deployment:
        settings = read_settings(Deployment, deployment.server / "deployment.yaml")
        for site in SITES:
            file = deployment.folder / "sites" / site / "site.yaml"
            through = {"server": f"localhost:{settings.proxy_port}"}
            write_settings(read_settings(Site, file).model_copy(update=through), file)
        path = current.begin(deployment.server, "run")
        ca = deployment.server / "tls" / "ca.pem"
        with nginx(deployment.server, settings.proxy_port):
            deployment.start()
            deployment.wait(path)
            assert status_of(settings.port, ca, "POST", "/v1/control/list-runs") not in (403, 404), (
                "it is there"
            )
            codes = {
                p: status_of(settings.proxy_port, ca, *p)
                for p in [*REFUSED, ("POST", "/v1/control/list-runs")]
            }
            without_ca, without_key = strangers(deployment, tmp_path)
            log = (deployment.server / "nginx-access.log").read_text()
    run(chosen, tmp_path / "local")
    assert largest_difference(path, tmp_path / "local") == 0
    assert [(e["answered"], e["refused"]) for e in trained(path)] == [(list(SITES), {})] * 2
    assert 'POST /v1/fleet/push-object HTTP/1.1" 200' in log, "the answers came through the proxy"
    assert {path: code for path, code in codes.items() if code not in (400, 403)} == {}
    assert "Exit Code: 305" in without_key
    assert "certificate verify failed" in without_ca.lower()


EVIL = {
    "pyproject.toml": """[project]
name = "other"
version = "1.0.0"
description = "x"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedloom"
fab-include = ["**/*.py"]
[tool.flwr.app.components]
serverapp = "other.server:app"
clientapp = "other.client:app"
[tool.flwr.app.config]
""",
    "other/__init__.py": "",
    "other/client.py": """import pathlib
pathlib.Path(PLACE).write_text("code of another app ran")
from flwr.clientapp import ClientApp
app = ClientApp()
""",
    "other/server.py": """import json, os, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    nodes = {n.node_id: n.name for n in grid.get_nodes()}
    ask = [Message(RecordDict({"x": ConfigRecord({"y": 1})}), node, "train") for node in nodes]
    replies = grid.send_and_receive(ask, timeout=300)
    # The answer of a node that could not run the app names the node in its metadata.
    said = {nodes[r.metadata.src_node_id]: r.error.reason if r.has_error() else "ran" for r in replies}
    pathlib.Path(REPLIES).write_text(json.dumps(said))
""",
}


def test_another_app_is_refused_by_name_at_every_site_and_nothing_of_it_runs(tmp_path) -> None:
    place, replies = tmp_path / "it-ran", tmp_path / "replies.json"
    for name, text in EVIL.items():
        file = tmp_path / "app" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("PLACE", repr(str(place))).replace("REPLIES", repr(str(replies))))
    with loopback(tmp_path / "d", experiment(2), SITES) as deployment:
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path)
        env = environment(deployment.server / "flower")
        submit = [program("flwr"), "run", str(tmp_path / "app"), "fedloom"]
        done = subprocess.run(submit, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        until = time.monotonic() + 300
        while not replies.exists() and time.monotonic() < until:
            time.sleep(1)
        time.sleep(3)  # `deploy site` looks once a second
        logs = {site: deployment.children[site].log.read_text() for site in SITES}
    said = json.loads(replies.read_text())
    assert sorted(said) == list(SITES)
    for site in SITES:
        assert f"this site works for the app {pinned_app()[:16]} alone" in said[site]
        assert (
            f"{site}: this site works for the app {pinned_app()[:16]} alone, and the server runs"
            in logs[site]
        )
    assert not place.exists()
    assert not [f for site in SITES for f in (deployment.folder / "sites" / site).rglob("other")]


def strangers(deployment: Loopback, folder: Path) -> tuple[str, str]:
    """The logs of a SuperNode without the CA and of one without a registered key."""
    place = deployment.folder / "sites" / "image-01"
    site = read_settings(Site, place / "site.yaml")
    write_node_key(folder / "stranger.key", folder / "stranger.pub")
    shutil.copy(place / "ca.pem", folder / "ca.pem")
    usual = [
        program("flower-supernode"),
        "--superlink",
        site.server,
        "--host",
        "127.0.0.1",
        "--max-retries",
        "1",
    ]
    env = environment(folder / "home")
    logs = []
    trusted = Path("/etc/ssl/certs/ca-certificates.crt")
    others = ["--root-certificates", str(trusted)] if trusted.exists() else []
    for number, more in enumerate((others, ["--root-certificates", str(folder / "ca.pem")])):
        [port] = free_ports(1)
        key = ["--auth-supernode-private-key", str(folder / "stranger.key"), "--port", str(port)]
        node = Child([*usual, *more, *key], env, folder / f"stranger-{number}.log")
        node.start()
        assert node.process is not None
        try:
            node.process.wait(300)
        finally:
            node.stop()
        logs.append(node.log.read_text())
    return logs[0], logs[1]


def test_the_demo_ends_with_equal_bits_for_every_system(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedloom", "deploy", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal bits") == 4
