"""`python -m fedloom.deploy.trainer_process FOLDER`: a site's warm trainer, which exits with its parent."""

import os
import sys
import time
from pathlib import Path

import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_process
from fedloom.core.terminal import visible
from fedloom.deploy.logs import EventLog
from fedloom.deploy.settings import Site, read_settings
from fedloom.deploy.trainer import SiteTrainer
from fedloom.deploy.trainer_link import endpoint, serve
from fedloom.deploy.trainer_log import noted
from fedloom.experiment.finished_run import read_experiment


def main(folder: Path) -> None:
    """Load foundation and data, then serve requests."""
    quiet_process()
    # Set before the first parallel operation: worker threads inherit the mode of their creator.
    torch.set_flush_denormal(True)
    site = read_settings(Site, folder / "site.yaml")
    if site.engine.threads is not None:
        torch.set_num_threads(site.engine.threads)
    log = EventLog(folder / "logs" / "trainer.jsonl", "trainer", site=site.name)
    experiment = read_experiment(folder)
    began = time.perf_counter()
    trainer = SiteTrainer(site, experiment, folder)
    log("", "loaded", seconds=round(time.perf_counter() - began, 2))
    parent = os.getppid()
    answer = noted(trainer.answer, folder, log, experiment.firewall)
    serve(endpoint(folder), answer, lambda: os.getppid() == parent)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ExperimentError as error:
        sys.stderr.write(visible(f"fedloom: {error}\n"))
        sys.exit(2)
