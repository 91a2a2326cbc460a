"""Whether a frozen encoder's features stay the same through a run."""

from fedloom.core.payload import group_of
from fedloom.federation.settings import RunSettings
from fedloom.models.base import Trainable
from fedloom.models.parts import part_of
from fedloom.models.training.settings import ever_trained


def constant_features(experiment: RunSettings, model: Trainable) -> bool:
    """Whether the tensors that the model's features depend on stay untrained through the run."""
    parts = ever_trained(experiment.training, experiment.rounds)
    return not any(
        experiment.method.scope.role(n) != "frozen" and part_of(group_of(n)) in {*parts, None}
        for n in model.feature_tensors
    )
