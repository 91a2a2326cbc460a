"""Weights & Biases: offline files, or a server. Its telemetry, and what it would collect of the machine, are off."""

import os
import uuid
from collections.abc import Mapping
from typing import Any

from fedloom.experiment.tracking.settings import WandBSettings
from fedloom.experiment.tracking.tracker import Ending, TrackedRun


class WandB:
    """One W&B run. A resumed one adds a further offline folder of the same id; the server joins them."""

    def __init__(self, settings: WandBSettings) -> None:
        self.settings = settings
        self._run: Any = None

    def open(self, run: TrackedRun, previous: str | None) -> str:
        """Begin the run, or go on with it by its id."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else it reports to its makers, offline, too
        os.environ.setdefault("WANDB_SILENT", "true")  # and asks nobody for a key
        import wandb

        name = previous or uuid.uuid4().hex[:8]
        folder = self.settings.folder or run.folder
        self._run = wandb.init(
            id=name,
            resume="allow",
            reinit="create_new",
            dir=None if folder is None else str(folder),
            project=self.settings.project,
            entity=self.settings.entity,
            name=run.label,
            group=run.experiment,
            config=dict(run.settings),
            allow_val_change=True,
            settings=wandb.Settings(
                mode=self.settings.mode,
                silent=True,
                console="off",
                init_timeout=60,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        return name

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """Hand the figures to W&B's own process, which writes or sends them."""
        self._run.log(dict(figures), step=round, commit=True)

    def log_end(self, round: int, figures: Mapping[str, float]) -> None:
        """Put the figures into the run's summary: W&B takes no more for a step that is over."""
        self._run.summary.update(dict(figures))

    def close(self, ending: Ending, status: str) -> None:
        """End the run; what is not finished counts as failed there."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if ending == "finished" else 1)
