"""`fedloom deploy init`: the folders of a deployment. `server` stays with the server, `sites/<name>` goes to that site alone."""

from importlib.resources import files
from pathlib import Path
from string import Template

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.deploy.certificates import write_node_key, write_tls
from fedloom.deploy.settings import Deployment, Site, check_deployable, requests_of, write_settings
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder

PROXY_PORT = 443


def write_kit(
    out: Path,
    experiment: Experiment,
    deployment: Deployment,
    *,
    direct: bool = False,
    node_ports: dict[str, int] | None = None,
) -> None:
    """Everything that server and sites need, below `out`; keys may be read by their owner alone.

    `direct` lets the sites speak to the SuperLink itself, for a deployment on one machine; else they go to the proxy's port.
    `node_ports` are the SuperNodes' local ports where several are on one machine. Raises ExperimentError.
    """
    check_deployable(experiment)
    if out.exists() and any(out.iterdir()):
        raise ExperimentError(f"{out} is not empty; name a new folder, so that no key is overwritten")
    server = out / "server"
    for folder in (server / "tls", server / "nodes", server / "app"):
        folder.mkdir(parents=True)
    write_tls(server / "tls", out / "ca.key", deployment.host)
    write_settings(deployment, server / "deployment.yaml")
    RunFolder(server).write_experiment(experiment.as_dict())
    told = {
        "host": deployment.host,
        "port": str(deployment.port),
        "upstream": "127.0.0.1",
    }
    write_template(server / "app" / "pyproject.toml", "pyproject.toml", told)
    write_template(server / "app" / "README.md", "app-readme.md", told)
    write_template(server / "nginx.conf", "nginx.conf", told)
    write_template(server / "compose.yaml", "compose-server.yaml", told)
    address = f"{deployment.host}:{deployment.port if direct else PROXY_PORT}"
    for name in deployment.sites:
        folder = out / "sites" / name
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        write_node_key(folder / "node.key", server / "nodes" / f"{name}.pub")
        (folder / "ca.pem").write_bytes((server / "tls" / "ca.pem").read_bytes())
        port = (node_ports or {}).get(name, 9094)
        site = Site(
            name=name, server=address, sites=deployment.sites, requests=requests_of(experiment), port=port
        )
        write_settings(site, folder / "site.yaml")
        RunFolder(folder).write_experiment(experiment.as_dict())
        write_template(folder / "compose.yaml", "compose-site.yaml", told)


def write_template(path: Path, template: str, told: dict[str, str]) -> None:
    """A template with `$name` filled in; what it does not know, such as a shell's own, stays."""
    text = (files("fedloom") / "deploy" / "templates" / template).read_text(encoding="utf-8")
    write_atomic(path, Template(text).safe_substitute(told).encode())
