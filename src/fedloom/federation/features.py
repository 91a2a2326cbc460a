"""The feature cache of a process that trains or evaluates for a run."""

from pathlib import Path

from fedloom.core.payload import group_of
from fedloom.federation.settings import RunSettings
from fedloom.models.base import Trainable
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.parts import part_of
from fedloom.models.training.settings import ever_trained


def feature_cache(
    experiment: RunSettings, model: Trainable, memory: int, inside: Path | None
) -> FeatureCache:
    """The cache of the model's features: `memory` bytes, and a folder `inside` for what goes beyond."""
    return FeatureCache(memory, inside, constant=_constant(experiment, model))


def _constant(experiment: RunSettings, model: Trainable) -> bool:
    """Whether the tensors that the model's features depend on stay untrained through the run."""
    parts = ever_trained(experiment.training, experiment.rounds)
    return not any(
        experiment.method.scope.role(n) != "frozen" and part_of(group_of(n)) in {*parts, None}
        for n in model.feature_tensors
    )
