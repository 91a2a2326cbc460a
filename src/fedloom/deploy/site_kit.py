"""`fedloom deploy init`: the folders of a deployment, `server` for the server and `sites/<name>` for each site."""

from importlib.resources import files
from pathlib import Path
from string import Template

from fedloom import __version__
from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.new_folder import check_free
from fedloom.deploy.addresses import in_url
from fedloom.deploy.app_bundle import write_app
from fedloom.deploy.certificates import write_node_key, write_signing_key, write_tls
from fedloom.deploy.private_files import private_files
from fedloom.deploy.settings import (
    Deployment,
    Site,
    check_deployable,
    check_sites,
    requests_of,
    write_settings,
)
from fedloom.deploy.site_list import LIST, SIGNING_KEY, signed
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder


@private_files()
def write_kit(
    out: Path,
    experiment: Experiment,
    deployment: Deployment,
) -> None:
    """Write all files of server and sites below `out`, readable by their owner alone (0600, folders 0700).

    Raises ExperimentError.
    """
    check_deployable(experiment)
    check_sites(experiment, deployment.sites)
    check_free(out)
    server = out / "server"
    try:
        for folder in (server / "tls", server / "nodes", server / "app", server / "nginx-temporary"):
            folder.mkdir(parents=True)
    except OSError as error:
        raise ExperimentError(
            f"no folder can be made in {out} ({error.strerror}); name a new one in a place that you may write to"
        ) from error
    write_tls(server / "tls", out / "ca.key", deployment.host)
    write_settings(deployment.model_copy(update={"version": __version__}), server / "deployment.yaml")
    RunFolder(server).write_experiment(experiment.as_dict())
    values = {
        "host": in_url(deployment.host),
        "port": str(deployment.port),
        "upstream": "127.0.0.1",
        "listen": f"{'[::]:' if ':' in deployment.host else ''}{deployment.proxy_port}",
        "proxy_port": str(deployment.proxy_port),
    }
    write_app(server / "app")
    write_template(server / "nginx.conf", "nginx.conf", values)
    write_template(server / "compose.yaml", "compose-server.yaml", values)
    write_units(server, "fedloom-server.service", "fedloom-run.service", "fedloom-run.timer")
    keys: dict[str, str] = {}
    for name in deployment.sites:
        folder = out / "sites" / name
        folder.mkdir(parents=True)
        keys[name] = write_site(folder, server, experiment, deployment, name)
        (folder / "node.pub").rename(server / "nodes" / f"{name}.pub")
    listed = signed(keys, 1, out / "ca.key").text.encode()
    for folder in (server, *(out / "sites" / name for name in deployment.sites)):
        write_atomic(folder / LIST, listed)


def write_site(
    folder: Path,
    server: Path,
    experiment: Experiment,
    deployment: Deployment,
    name: str,
) -> str:
    """Write a site's files but for the list of sites into its empty folder; returns its public signing key (64 hex digits).

    Its public node key lies in `node.pub`, for the server.
    """
    key = write_signing_key(folder / SIGNING_KEY)
    write_node_key(folder / "node.key", folder / "node.pub")
    (folder / "ca.pem").write_bytes((server / "tls" / "ca.pem").read_bytes())
    address = f"{in_url(deployment.host)}:{deployment.site_port}"
    site = Site(
        name=name,
        server=address,
        sites=deployment.sites,
        requests=requests_of(experiment),
        version=__version__,
    )
    write_settings(site, folder / "site.yaml")
    RunFolder(folder).write_experiment(experiment.as_dict() | {"track": {}})  # the server's alone
    write_template(folder / "compose.yaml", "compose-site.yaml", {})
    write_units(folder, "fedloom-site.service")
    return key


def write_template(path: Path, template: str, values: dict[str, str]) -> None:
    """Write a template with `$name` substituted; unknown names, such as shell variables, stay."""
    text = (files("fedloom") / "deploy" / "templates" / template).read_text(encoding="utf-8")
    write_atomic(path, Template(text).safe_substitute(values).encode())


def write_units(folder: Path, *names: str) -> None:
    """Write systemd units as they are, for whoever installs them to fill in paths and user."""
    for name in names:
        write_atomic(folder / name, (files("fedloom") / "deploy" / "templates" / name).read_bytes())
