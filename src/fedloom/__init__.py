"""fedloom: federated fine-tuning, personalisation, transfer and pre-training of multimodal foundation models.

result = fedloom.run(fedloom.Experiment.load("experiments/uniflow/quickstart.yaml"), "runs/q")
model = fedloom.load("runs/q")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloom.core.errors import ExperimentError
    from fedloom.experiment.registry import register
    from fedloom.experiment.run import Result, load, run
    from fedloom.experiment.settings import Experiment

__version__ = "0.1.0"
__all__ = ["Experiment", "ExperimentError", "Result", "__version__", "load", "register", "run"]

_HOMES = {
    "Experiment": "fedloom.experiment.settings",
    "ExperimentError": "fedloom.core.errors",
    "Result": "fedloom.experiment.run",
    "register": "fedloom.experiment.registry",
    "load": "fedloom.experiment.run",
    "run": "fedloom.experiment.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used, so that `import fedloom` stays quick."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'fedloom' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
