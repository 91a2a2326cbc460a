"""A real deployment on this machine: SuperLink, SuperNodes, TLS and keys; strangers turned away; SIGKILL of a part and of all.

Each of these takes minutes, because Flower starts a process for every message: `pytest -m deploy` runs them, nothing else does.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloom.deploy import current_run as current
from fedloom.deploy.certificates import write_node_key
from fedloom.deploy.demo import Loopback, largest_difference, loopback
from fedloom.deploy.processes import Child, environment, program
from fedloom.deploy.settings import Site, read_settings
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]
SITES = ("image-01", "image-02", "image-03")


def experiment(rounds: int) -> Experiment:
    """Something with personal tensors, quick to train: the messages are what takes time."""
    return Experiment.parse(
        {
            "rounds": rounds,
            "method": "fedsa-lora",
            "data": {"clients": {"image": 3}, "train": 12, "test": 2},
            "training": {"batch_size": 6},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 99},
            "engine": {"cohort": "off", "threads": 1},
        }
    )


def processes_below(pid: int) -> list[int]:
    """A process and everything that it has started, and so on."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


def kill(pid: int) -> None:
    """SIGKILL a process and everything below it."""
    for one in processes_below(pid):
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def pid_of(deployment: Loopback, name: str) -> int:
    process = deployment.children[name].process
    assert process is not None
    return process.pid


def trained(path: Path) -> list[dict]:
    return (
        [e for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "train"]
        if path.is_dir()
        else []
    )


def own_state(folder: Path) -> dict[str, bytes]:
    """The values of the sites' personal tensors."""
    from fedloom.core.tensor_files import digest_of, read_checked

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
        [link] = [p for p in processes_below(pid_of(deployment, "server")) if "superlink" in command(p)][:1]
        kill(link)
        deployment.wait(path, lambda: len(trained(path)) >= 2)
        time.sleep(8)  # into round 3
        for name in ("server", *SITES):
            kill(pid_of(deployment, name))
        until = time.monotonic() + 20
        while current.worked_on(path) and time.monotonic() < until:  # a killed process takes a moment to go
            time.sleep(0.1)
        assert not current.worked_on(path)
        assert not current.finished(path)
        deployment.start()
        deployment.wait(path)
        kept = own_state(tmp_path / "d")
    run(chosen, tmp_path / "local")
    assert largest_difference(path, tmp_path / "local") == 0
    assert [(e["round"], e["answered"], e["refused"]) for e in trained(path)] == [
        (n, list(SITES), {}) for n in range(1, 5)
    ]
    from fedloom.core.tensor_files import digest_of, read_checked

    for site in SITES:
        [file] = (tmp_path / "local" / "state" / "clients" / site).iterdir()
        assert kept[site] == digest_of(read_checked(file))


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_strangers_are_turned_away_and_a_killed_site_is_named_and_rejoins(tmp_path) -> None:
    chosen = experiment(9)  # enough rounds for a site to come back in
    with loopback(tmp_path / "d", chosen, SITES) as deployment:
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path, lambda: len(trained(path)) >= 1)
        time.sleep(4)  # into round 2
        kill(pid_of(deployment, "image-02"))
        deployment.wait(path, lambda: len(trained(path)) >= 2)
        deployment.start()
        without_ca, without_key = strangers(deployment, tmp_path)
        deployment.wait(path)
    assert "Exit Code: 305" in without_key
    assert "certificate verify failed" in without_ca.lower() or "connection" in without_ca.lower()
    rounds = trained(path)
    assert rounds[0]["answered"] == list(SITES)
    assert rounds[1]["answered"] == ["image-01", "image-03"]
    assert list(rounds[1]["refused"]) == ["image-02"]
    assert rounds[-1]["answered"] == list(SITES)


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
        port = str(site.port + 100 + number)
        key = ["--auth-supernode-private-key", str(folder / "stranger.key"), "--port", port]
        node = Child([*usual, *more, *key], env, folder / f"stranger-{number}.log")
        node.start()
        until = time.monotonic() + 90
        while node.alive and time.monotonic() < until:
            time.sleep(0.5)
        node.stop()
        logs.append(node.log.read_text())
    return logs[0], logs[1]


def test_the_demo_command_ends_with_equal_bits(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedloom", "deploy", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bits" in done.stdout
