"""A run's mechanism of differential privacy, and the noise multiplier that its budget asks for."""

from typing import TYPE_CHECKING, TypeVar

from fedloom.core.errors import ExperimentError
from fedloom.federation.settings import RunSettings
from fedloom.privacy.compatibility import asks, not_installed
from fedloom.privacy.differential.accountant import calibrated

if TYPE_CHECKING:
    from fedloom.privacy.differential.mechanism import Mechanism

S = TypeVar("S", bound=RunSettings)


def sums_a_round(experiment: RunSettings) -> int:
    """The noisy sums of a round; the warm start's method may ask less often."""
    methods = (experiment.method_in(1), experiment.method)
    return max(asks(method.combination) for method in methods)


def mechanism_of(experiment: RunSettings) -> "Mechanism | None":
    """The run's mechanism of differential privacy; None without it."""
    dp = experiment.privacy.dp
    if dp is None:
        return None
    from fedloom.privacy.differential.mechanism import Mechanism  # needs the extra `privacy`

    return Mechanism(dp, experiment.cohort.fraction, sums_a_round(experiment), experiment.seed)


def with_multiplier(experiment: S) -> S:
    """The same experiment with its noise multiplier as a number. Raises ExperimentError for a budget that no noise keeps."""
    dp = experiment.privacy.dp
    if dp is None or dp.noise_multiplier != "calibrated":
        return experiment
    if fault := not_installed(experiment.privacy):
        raise ExperimentError(fault)
    try:
        z = calibrated(dp, experiment.cohort.fraction, sums_a_round(experiment), max(1, experiment.rounds))
    except ValueError as error:
        raise ExperimentError(f"privacy.dp: {error}; raise epsilon") from error
    privacy = experiment.privacy.model_copy(update={"dp": dp.model_copy(update={"noise_multiplier": z})})
    return experiment.model_copy(update={"privacy": privacy})
