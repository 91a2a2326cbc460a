"""Opens the trackers of a run with its name, settings and folder."""

from fedloom.experiment import provenance
from fedloom.experiment.settings import Experiment
from fedloom.experiment.tracking import TrackedRun, Tracking
from fedloom.federation.loop import Federation


def track(federation: Federation, tracking: Tracking, *, resumed: bool = False) -> None:
    """Open the trackers of a built federation, which is to go on after its last round if it is `resumed`."""
    experiment = federation.experiment
    assert isinstance(experiment, Experiment)  # noqa: S101
    row = experiment.row or experiment.method.name
    tracking.begin(
        TrackedRun(
            experiment.name,
            "-".join([experiment.name, row, *filter(None, [experiment.across]), f"seed-{experiment.seed}"]),
            provenance.flat(experiment.located().as_dict()),
            None if federation.folder is None else federation.folder.path,
        ),
        sorted({*federation.clients, *federation.evaluator.tests.of}),
        federation.totals,
        federation.round if resumed else None,
    )
