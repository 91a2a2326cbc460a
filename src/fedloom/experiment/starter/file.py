"""The check of a first experiment's text before it is written, and the memory that its comments speak of."""

import yaml

from fedloom.experiment.settings import Experiment
from fedloom.federation.cohort_size import memory
from fedloom.models.load import choose_device


def check(text: str, origin: str) -> None:
    """Raise ExperimentError for a text that is no experiment, with a setting that nothing reads for instance."""
    Experiment.parse(yaml.safe_load(text), origin)


def device_memory() -> float:
    """The memory of the device that a run takes, in 10^9 bytes."""
    return memory(choose_device("auto")) / 1e9
