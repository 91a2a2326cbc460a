"""The features of a frozen encoder that a run keeps."""

from pathlib import Path

from fedloom.core.payload import group_of
from fedloom.federation.settings import RunSettings
from fedloom.models.base import Trainable
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.parts import part_of
from fedloom.models.training.settings import ever_trained


def keep_features(experiment: RunSettings, model: Trainable, memory: int, inside: Path | None) -> None:
    """Let the model keep its features: `memory` bytes, and files in the folder `inside`. Nothing with `engine.reuse` off."""
    if experiment.engine.reuse:
        shared = model.shared_features(experiment.engine.cache * 10**6)
        constant = constant_features(experiment, model)
        model.store = FeatureCache(memory, inside, constant=constant, shared=shared)


def constant_features(experiment: RunSettings, model: Trainable) -> bool:
    """Whether the tensors that the model's features depend on stay untrained through the run."""
    parts = ever_trained(experiment.training, experiment.rounds)
    return not any(
        experiment.method.scope.role(n) != "frozen" and part_of(group_of(n)) in {*parts, None}
        for n in model.feature_tensors
    )
