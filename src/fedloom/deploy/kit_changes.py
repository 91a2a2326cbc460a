"""`fedloom deploy add-site` and `remove-site`: a kit's sites change; the other sites keep theirs.

A server acts on `deployment.yaml` alone, which is written last: a change that was cut off before can be repeated or undone.
"""

import shutil
from pathlib import Path

from pydantic import ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.deploy.kit_version import check_version
from fedloom.deploy.private_files import private_files
from fedloom.deploy.settings import Deployment, check_sites, read_settings, write_settings
from fedloom.deploy.site_kit import write_site
from fedloom.deploy.site_list import CA, LIST, change_list, read_list
from fedloom.experiment.finished_run import read_experiment
from fedloom.experiment.settings import Experiment


@private_files()
def add_site(kit: Path, name: str, ca_key: Path) -> Path:
    """Write the folder of a further site and let the server know its keys; returns the folder.

    Raises ExperimentError; then nothing has changed.
    """
    server, (deployment, experiment) = kit / "server", _read(kit)
    if name in deployment.sites:
        raise ExperimentError(f"{name} is one of the sites already; give the new site another name")
    after = _with_sites(deployment, (*deployment.sites, name))
    folder = kit / "sites" / name
    if folder.exists():
        raise ExperimentError(f"{folder} exists already; move it away, so that no key is overwritten")
    part = kit / "sites" / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        key = write_site(part, server, experiment, after, name)
        shutil.copyfile(part / "node.pub", server / "nodes" / f"{name}.pub")
        (part / "node.pub").unlink()
        (part / LIST).write_text(change_list(server, ca_key, add={name: key}).text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        (server / "nodes" / f"{name}.pub").unlink(missing_ok=True)
        raise
    part.rename(folder)
    write_settings(after, server / "deployment.yaml")
    return folder


@private_files()
def remove_site(kit: Path, name: str, ca_key: Path) -> None:
    """Take a site out of the list; the server asks it no more and lets its key in no more. Raises ExperimentError."""
    server, (deployment, experiment) = kit / "server", _read(kit)
    listed = read_list(server / LIST, server / "tls" / CA).sites
    if name not in deployment.sites and name not in listed:
        raise ExperimentError(f"{name} is none of the sites; there is {', '.join(deployment.sites)}")
    if deployment.sites == (name,):
        raise ExperimentError(f"{name} is the last site; a deployment without any is none")
    left = tuple(site for site in deployment.sites if site != name)
    if name in deployment.sites:  # else a change that was cut off is brought to its end
        check_sites(experiment, left)
    if name in listed:
        change_list(server, ca_key, remove=[name])
    write_settings(_with_sites(deployment, left), server / "deployment.yaml")


def _read(kit: Path) -> tuple[Deployment, Experiment]:
    """The settings of a kit whose sites may change. Raises ExperimentError."""
    deployment = read_settings(Deployment, kit / "server" / "deployment.yaml")
    check_version(deployment, kit / "server")
    experiment = read_experiment(kit / "server")
    if experiment.cohort.ranks:
        raise ExperimentError(
            "cohort.ranks deals the ranks by all sites' names, so that another site would change every site's; "
            "write a new kit with `fedloom deploy init`"
        )
    return deployment, experiment


def _with_sites(deployment: Deployment, sites: tuple[str, ...]) -> Deployment:
    try:
        return Deployment.model_validate(deployment.model_dump() | {"sites": sites})
    except ValidationError as error:
        raise ExperimentError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
