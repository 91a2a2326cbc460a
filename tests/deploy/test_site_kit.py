"""`init`: private keys with mode 0600, certificates that verify, and mistakes reported in one sentence."""

import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.deploy import current_run, keeping, run_site
from fedloom.deploy.processes import QUIET, Child, environment
from fedloom.deploy.settings import Deployment, Site, experiment_digest, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.state import SiteState
from fedloom.experiment.finished_run import read_experiment
from tests.deploy.silos import said_into
from tests.processes import running


@pytest.fixture
def kit(quick, tmp_path) -> Path:
    out = tmp_path / "kit"
    write_kit(
        out, quick("fedsa-lora"), Deployment(sites=("north", "south"), host="fl.example.org", port=8123)
    )
    return out


def test_private_keys_are_their_owners_alone(kit) -> None:
    for file in (kit / "ca.key", kit / "server/tls/server.key", kit / "sites/north/node.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(kit.glob("server/**/node.key")), "a site's private key is at the site and nowhere else"
    assert not list(kit.glob("**/ca.key"))[1:]
    keys = [(kit / f"server/nodes/{n}.pub").read_text() for n in ("north", "south")]
    assert all(k.startswith("ecdsa-sha2-nistp384 ") for k in keys)
    assert keys[0] != keys[1]


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The usual umask, under which new files are everybody's to read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What others may read or enter, of a folder and everything below it."""
    return [str(f) for f in (folder, *folder.rglob("*")) if stat.S_IMODE(f.stat().st_mode) & 0o077]


def test_a_kit_is_its_owners_alone_under_the_usual_umask(open_umask, quick, tmp_path) -> None:
    out = tmp_path / "kit"
    write_kit(out, quick("fedsa-lora"), Deployment(sites=("north", "south")))
    assert open_to_others(out) == []
    assert os.umask(0o022) == 0o022, "the umask is as it was"


def test_no_file_of_a_kit_is_readable_even_for_a_moment(open_umask, quick, tmp_path, monkeypatch) -> None:
    seen: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.extend(open_to_others(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    monkeypatch.setattr(Path, "chmod", lambda *_: pytest.fail("the mode is given when the file is made"))
    write_kit(tmp_path / "kit", quick("fedsa-lora"), Deployment(sites=("north",)))
    assert seen == []


def test_what_a_site_and_a_server_write_while_they_run_is_their_owners_alone(
    open_umask, kit, monkeypatch
) -> None:
    folder = kit / "sites/north"
    run_site.accept(folder)
    writes = shell("mkdir runs; echo x > runs/state; echo loaded; exec sleep 60")
    monkeypatch.setattr(run_site, "_trainer", lambda f: ["/bin/sh", "-c", f"cd {f} && {writes[2]}"])
    monkeypatch.setattr(run_site, "_node", lambda f, s, t: shell("exec sleep 60"))
    run_site.run_site(folder, said_into([]), lambda: not (folder / "runs/state").exists())
    current_run.begin(kit / "server", "first")
    SiteState(folder / "runs" / ("a" * 32))
    assert open_to_others(kit) == []


def handshake(kit: Path, client: ssl.SSLContext, name: str) -> str | None:
    """The TLS error of a client with this context at a server with the kit's certificate; None if it connects."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(kit / "server/tls/server.pem", kit / "server/tls/server.key")
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).recv(1)
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=name) as secure:
            secure.send(b"x")
        return None
    except ssl.SSLError as error:
        return str(error)
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("name", ["fl.example.org", "localhost"])
def test_the_certificate_holds_for_the_servers_names_under_the_kits_ca(kit, name) -> None:
    assert handshake(kit, ssl.create_default_context(cafile=str(kit / "sites/north/ca.pem")), name) is None


def test_without_the_ca_or_under_another_name_the_server_is_not_believed(kit) -> None:
    error = handshake(kit, ssl.create_default_context(), "fl.example.org")
    assert error is not None
    assert "CERTIFICATE_VERIFY_FAILED" in error
    error = handshake(
        kit, ssl.create_default_context(cafile=str(kit / "sites/north/ca.pem")), "other.example.org"
    )
    assert error is not None
    assert "Hostname mismatch" in error


def test_flower_reads_the_nodes_keys(kit) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    private = serialization.load_ssh_private_key((kit / "sites/north/node.key").read_bytes(), None)
    public = serialization.load_ssh_public_key((kit / "server/nodes/north.pub").read_bytes())
    assert private.public_key().public_numbers() == public.public_numbers()


def test_server_and_sites_mean_the_same_experiment_on_whatever_machines(kit) -> None:
    one = read_experiment(kit / "server")
    other = read_experiment(kit / "sites/south")
    assert experiment_digest(one) == experiment_digest(other)
    faster = other.model_copy(update={"engine": other.engine.model_copy(update={"threads": 7})})
    assert experiment_digest(faster) == experiment_digest(one)
    longer = other.model_copy(update={"rounds": 9})
    assert experiment_digest(longer) != experiment_digest(one)
    site = read_settings(Site, kit / "sites/south/site.yaml")
    assert (site.name, site.server, site.requests) == (
        "south",
        "fl.example.org:443",
        ("describe", "evaluate", "train"),
    )


def test_a_site_sees_its_terms_and_runs_nothing_before_it_accepts_them(kit) -> None:
    folder = kit / "sites/north"
    shown = run_site.terms(folder)
    assert shown["requests that are done"] == "describe, evaluate, train"
    assert "FedSA" in shown["method"]
    assert "lora_B" in shown["stays at this site"]
    with pytest.raises(ExperimentError, match="before its terms are accepted"):
        run_site.run_site(folder, said_into([]), lambda: False)
    run_site.accept(folder)
    run_site.run_site(folder, said_into([]), lambda: False)
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("rounds: 2", "rounds: 99"))
    with pytest.raises(ExperimentError, match="before its terms are accepted"):
        run_site.run_site(folder, said_into([]), lambda: False)


def test_a_second_kit_overwrites_no_key(kit, quick) -> None:
    with pytest.raises(ExperimentError, match="not empty"):
        write_kit(kit, quick("fedsa-lora"), Deployment(sites=("north",)))


@pytest.mark.parametrize("name", ["../up", "a b", "", "-x", "a/b"])
def test_a_sites_name_is_no_path_and_no_option(name) -> None:
    with pytest.raises(ValueError, match="no site's name"):
        Deployment(sites=(name,))


def test_flower_calls_nobody_and_installs_nothing(tmp_path) -> None:
    env = environment(tmp_path / "home", {"X": "1"})
    assert {k: env[k] for k in QUIET} == QUIET
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_UPDATE_CHECK"] == env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["FLWR_HOME"] == str(tmp_path / "home")


CONNECTED = "takes this site for connected already"
UNKNOWN = "does not know this site's key"


@pytest.mark.parametrize(
    ("said", "known", "reasons", "no_reason"),
    [
        ("[code: 2004] Failed to activate SuperNode.", True, [CONNECTED], UNKNOWN),
        ("[code: 2004] Failed to activate SuperNode.", False, [UNKNOWN], CONNECTED),
        ("[code: 2004] Failed to activate SuperNode.", None, [UNKNOWN, CONNECTED], None),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: x", None, ["this site's ca.pem", "clock"], UNKNOWN),
        ("Client error '401 Unauthorized' for url", None, ["compare the clocks"], UNKNOWN),
        ("Client error '401 Unauthorized' for url", True, ["compare the clocks"], UNKNOWN),
        ("Client error '401 Unauthorized' for url", False, [UNKNOWN, "has taken the site out"], "clocks"),
    ],
)  # fmt: skip
def test_what_a_node_says_that_is_turned_away_becomes_a_reason(
    said, known, reasons, no_reason, tmp_path
) -> None:
    reason = run_site.refusal(ended(tmp_path, said), lambda: known)
    assert reason is not None
    assert all(r in reason for r in reasons)
    assert no_reason is None or no_reason not in reason
    assert "\n" not in reason


def test_any_other_end_of_a_node_is_no_refusal(tmp_path) -> None:
    node = ended(tmp_path, "Connection attempt failed, retrying in 0.35 seconds")
    assert run_site.refusal(node, lambda: pytest.fail("the server is not asked")) is None


def ended(folder: Path, said: str) -> Child:
    """A node that has said something and ended."""
    log = folder / "node.log"
    log.write_text("[code: 2004] of an earlier start\n")
    node = Child(["/bin/echo", said], {}, log)
    node.start()
    assert node.process is not None
    node.process.wait()
    return node


def test_a_child_is_ended_with_what_it_started(tmp_path) -> None:
    node = Child(["/bin/sh", "-c", "sleep 60 & echo $! ; wait"], {"PATH": "/bin:/usr/bin"}, tmp_path / "log")
    for _ in range(3):
        node.start()
        while not node.last_words():
            time.sleep(0.01)
        grandchild = int(node.last_words(1))
        node.stop(5.0)
        until = time.monotonic() + 5
        while running(grandchild) and time.monotonic() < until:
            time.sleep(0.01)
        assert not running(grandchild)
    assert not node.alive


def shell(code: str) -> list[str]:
    return ["/bin/sh", "-c", code]


def test_a_site_whose_data_cannot_be_used_says_so_and_tries_no_more(kit, monkeypatch) -> None:
    folder = kit / "sites/north"
    run_site.accept(folder)
    monkeypatch.setattr(
        run_site, "_trainer", lambda f: shell("echo 'fedloom: the data hold nothing' ; exit 2")
    )
    monkeypatch.setattr(run_site, "_node", lambda f, s, t: shell("sleep 60"))
    with pytest.raises(ExperimentError, match=r"^the data hold nothing$"):
        run_site.run_site(folder, said_into([]))


@pytest.fixture
def at_once(monkeypatch) -> None:
    """No pauses between starts."""
    monkeypatch.setattr(keeping, "FIRST", 0.0)
    monkeypatch.setattr(run_site.time, "sleep", lambda seconds: threading.Event().wait(0.01))


def test_a_site_that_answered_before_waits_for_its_data(kit, monkeypatch, at_once) -> None:
    folder, log = kit / "sites/north", []
    run_site.accept(folder)
    (folder / "runs").mkdir()
    monkeypatch.setattr(
        run_site, "_trainer", lambda f: shell("echo 'fedloom: there is no /srv/north' ; exit 2")
    )
    run_site.run_site(folder, said_into(log), lambda: len(log) < 7)
    assert all("there is no /srv/north" in line and "started again in" in line for line in log)


def test_a_trainer_that_dies_is_started_again_and_again(kit, monkeypatch, at_once) -> None:
    folder, log = kit / "sites/north", []
    run_site.accept(folder)
    monkeypatch.setattr(run_site, "_trainer", lambda f: shell("echo out of memory; exit 1"))
    monkeypatch.setattr(run_site, "_node", lambda f, s, t: shell(f"touch {f}/joined"))
    run_site.run_site(folder, said_into(log), lambda: len(log) < 12)
    place = folder.resolve() / "logs/trainer.log"
    assert set(log) == {f"north: trainer ended with 1 (out of memory); see {place}; started again in 0 s"}
    assert not (folder / "joined").exists(), "it joins once a trainer has loaded"


@pytest.mark.parametrize(
    "sign", ["[code: 2004] no", "certificate verify failed", "401 Unauthorized", "anything"]
)
def test_a_site_that_is_turned_away_never_gives_up(sign, kit, monkeypatch, at_once) -> None:
    folder, log = kit / "sites/north", []
    run_site.accept(folder)
    monkeypatch.setattr(run_site, "ask_for_key", lambda *_: None)
    monkeypatch.setattr(run_site, "_trainer", lambda f: shell(f"touch {f}/trainer.json; exec sleep 60"))
    monkeypatch.setattr(run_site, "_node", lambda f, s, t: shell(f"echo '{sign}'; exit 1"))
    run_site.run_site(folder, said_into(log), lambda: len(log) < 16)
    joined = "north: joins fl.example.org:443"
    assert log[0] == joined
    refusals = {line for line in log if line != joined}
    assert len(refusals) == 1, "one sentence each time"
    assert refusals.pop().startswith("north: ")


def test_the_terms_say_what_of_the_shared_tensors_the_server_sees(kit) -> None:
    folder = kit / "sites/north"
    plain = run_site.terms(folder)["leaves this site"]
    assert "masked" not in plain
    assert "noise" not in plain
    fields = yaml.safe_load((folder / "experiment.yaml").read_text())
    for privacy, said in [
        ({"secure": {}}, "masked: the server can open sums of several sites alone"),
        ({"dp": {}}, "as it is: the server clips and adds noise"),
        ({"secure": {}, "dp": {}}, "with noise added here; masked"),
    ]:
        (folder / "experiment.yaml").write_text(yaml.safe_dump({**fields, "privacy": privacy}))
        assert said in run_site.terms(folder)["leaves this site"]
