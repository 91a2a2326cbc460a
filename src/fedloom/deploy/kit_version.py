"""The version of fedloom that a kit was written for: other versions are refused until the kit is taken over."""

from pathlib import Path

from fedloom import __version__
from fedloom.core.errors import ExperimentError
from fedloom.deploy import current_run
from fedloom.deploy.app_bundle import write_app
from fedloom.deploy.private_files import private_files
from fedloom.deploy.settings import (
    Deployment,
    Site,
    check_deployable,
    check_sites,
    read_settings,
    write_settings,
)
from fedloom.deploy.site_list import check_list
from fedloom.experiment.finished_run import read_experiment

UNFINISHED = (
    "run {run} is not finished, and a run goes on under the version that began it: finish it with fedloom {version}, or "
    "`fedloom deploy stop` it and begin another after the upgrade"
)


def check_version(settings: Deployment | Site, folder: Path) -> None:
    """Raise ExperimentError for a folder of another version of fedloom than the installed one."""
    if settings.version != __version__:
        raise ExperimentError(
            f"{folder} is of fedloom {_words(settings.version)}, and {__version__} is installed: install the former, or take "
            f"the folder over with `fedloom deploy upgrade {folder}`; server and sites need the same version"
        )


@private_files()
def upgrade(folder: Path) -> str:
    """Take a server's or a site's folder over to the installed version; returns what has to be done next.

    Raises ExperimentError for settings that this version cannot use and for a run that is not finished; then nothing changes.
    """
    if (folder / "deployment.yaml").is_file():
        deployment = read_settings(Deployment, folder / "deployment.yaml")
        experiment = read_experiment(folder)
        check_deployable(experiment)
        check_sites(experiment, deployment.sites)
        check_list(experiment, folder)
        if (run := _unfinished(folder)) is not None and deployment.version != __version__:
            raise ExperimentError(UNFINISHED.format(run=run, version=_words(deployment.version)))
        write_app(folder / "app")
        write_settings(deployment.model_copy(update={"version": __version__}), folder / "deployment.yaml")
        return f"{folder} is of fedloom {__version__}; start the server, then let every site do the same"
    site = read_settings(Site, folder / "site.yaml")
    check_deployable(read_experiment(folder))
    (folder / "accepted.json").unlink(missing_ok=True)
    write_settings(site.model_copy(update={"version": __version__}), folder / "site.yaml")
    return f"{folder} is of fedloom {__version__}; read its terms again with `fedloom deploy site {folder}`"


def _unfinished(folder: Path) -> str | None:
    """The name of the current run, if it is not finished."""
    run = current_run.current(folder)
    return None if run is None or current_run.finished(current_run.run_path(folder, run)) else run


def _words(version: str | None) -> str:
    return version or "0.2 or older"
