"""The files for containers: what Compose makes of them, and that the image is built from everything it needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedloom.deploy.settings import Deployment
from fedloom.deploy.site_kit import write_kit
from tests.deploy.real import experiment

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]


def compose(folder: Path) -> dict:
    """The configuration that Compose reads from a folder. Skips where there is no Compose."""
    commands = [["docker", "compose"], ["docker-compose"]]
    for command in commands:
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True).returncode
        ):
            done = subprocess.run([*command, "config"], cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return yaml.safe_load(done.stdout)
    pytest.skip("neither `docker compose` nor docker-compose is here")


@pytest.fixture
def kit(tmp_path) -> Path:
    write_kit(tmp_path / "kit", experiment(1), Deployment(sites=("north",), proxy_port=8443))
    return tmp_path / "kit"


def targets(service: dict) -> dict[str, bool]:
    """Where the volumes of a service are mounted, and whether they are read-only."""
    found = {}
    for volume in service["volumes"]:
        if isinstance(volume, str):
            _, target, *mode = volume.split(":")
            found[target] = mode == ["ro"]
        else:
            found[volume["target"]] = volume.get("read_only", False)
    return found


def test_compose_starts_the_server_behind_its_proxy_alone(kit, monkeypatch) -> None:
    monkeypatch.delenv("FEDLOOM_USER", raising=False)
    services = compose(kit / "server")["services"]
    assert services["server"]["network_mode"] == "service:proxy"
    assert "ports" not in services["server"]
    [port] = services["proxy"]["ports"]
    assert (str(port["published"]), port["target"]) == ("8443", 8443)
    assert targets(services["proxy"]) == {"/srv/proxy/nginx.conf": True, "/srv/proxy/tls": True}
    assert services["server"]["user"] == "1000:1000"


def test_compose_gives_a_sites_data_to_the_trainer_alone(kit, monkeypatch) -> None:
    monkeypatch.setenv("TRAINER_USER", "7:8")
    monkeypatch.delenv("NODE_USER", raising=False)
    monkeypatch.setenv("DATA", "/srv/of/the/hospital")
    services = compose(kit / "sites" / "north")["services"]
    assert targets(services["trainer"]) == {"/srv/fedloom": False, "/srv/data": True}
    assert targets(services["node"]) == {"/srv/node": False}
    assert (services["trainer"]["user"], services["node"]["user"]) == ("7:8", "2002:2002")
    assert services["trainer"]["network_mode"] == "service:node"
    assert not any("ports" in service for service in services.values())


def test_the_halves_of_a_site_in_containers_are_two_users_and_only_one_sees_the_folder(kit) -> None:
    """The file itself, where there is no Compose to read it."""
    services = yaml.safe_load((kit / "sites/north/compose.yaml").read_text())["services"]
    assert services["node"]["volumes"] == ["./node:/srv/node"]
    assert services["trainer"]["volumes"] == [".:/srv/fedloom", "${DATA:-./data}:/srv/data:ro"]
    assert services["node"]["user"] != services["trainer"]["user"]
    for part, place in (("node", "/srv/node"), ("trainer", "/srv/fedloom")):
        assert services[part]["command"] == f"deploy site {place} --part {part}"


def test_the_image_has_everything_that_the_wheel_is_built_from() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", settings["project"]["readme"], *settings["project"]["license-files"]}
    needed |= {path.split("/")[0] for path in wheel["packages"]} | set(wheel["force-include"])
    assert needed <= copied
    assert all((ROOT / name).exists() for name in copied)
