"""fedloom: federated fine-tuning, personalisation, transfer and pre-training of multimodal foundation models.

import fedloom as fl

experiment = fl.Experiment(method="feda2-lora", rounds=4, data={"clients": {"image": 2, "audio": 2}})
result = fl.run(experiment)
result.metrics().plot()
answer = result.model().ask("what colour is the cube?", image="scene.png")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloom.core.errors import ExperimentError
    from fedloom.data.sources import clients
    from fedloom.experiment.finished_run import load
    from fedloom.experiment.registry import register
    from fedloom.experiment.run import Result, run
    from fedloom.experiment.settings import Experiment
    from fedloom.federation.progress import Progress

__version__ = "0.2.0"
__all__ = [
    "Experiment",
    "ExperimentError",
    "Progress",
    "Result",
    "__version__",
    "clients",
    "load",
    "register",
    "run",
]

_HOMES = {
    "Experiment": "fedloom.experiment.settings",
    "ExperimentError": "fedloom.core.errors",
    "Progress": "fedloom.federation.progress",
    "Result": "fedloom.experiment.run",
    "clients": "fedloom.data.sources",
    "register": "fedloom.experiment.registry",
    "load": "fedloom.experiment.finished_run",
    "run": "fedloom.experiment.run",
}


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used, so that `import fedloom` stays quick."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'fedloom' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
