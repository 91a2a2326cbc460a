"""A site's own demands, `demands` in its site.yaml: what an experiment and its server have to keep, or the site refuses.

They are checked against the site's copy of the experiment before anything starts, and at every sum while it runs.
"""

import json
import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.experiment.settings import Experiment
from fedloom.federation.calibration import sums_a_round, with_multiplier
from fedloom.privacy.compatibility import not_installed
from fedloom.privacy.differential.accountant import Accountant
from fedloom.privacy.settings import DP

SPENT = "spent.json"
"""File of a site: what its demanded budget has been spent on, over all runs."""


class Budget(BaseModel):
    """The largest (ε, δ) that a site spends, over all runs of its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epsilon: float = Field(gt=0, description="ε that the site's sums may reach, counted over all runs")
    delta: float = Field(
        1e-5, gt=0, lt=1, description="δ at which ε is counted; the experiment's is no larger"
    )


class Demands(BaseModel):
    """A site's demands of an experiment and of whoever runs the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secure: bool = Field(False, description="take part only in an experiment with privacy.secure")
    dp: Budget | None = Field(
        None, description="take part only with privacy.dp, up to this budget; none = no demand"
    )
    fellows: int = Field(
        0, ge=0, description="with secure: least number of other sites in every sum that is opened"
    )

    @model_validator(mode="after")
    def _sums(self) -> "Demands":
        if self.fellows and not self.secure:
            raise ValueError("fellows are those in a secure sum; add secure: true")
        return self

    @property
    def sentence(self) -> str:
        """The demands in words, as the terms show them."""
        parts = ["secure sums"] if self.secure else []
        if self.fellows:
            parts.append(f"{self.fellows} or more other sites in each sum")
        if self.dp is not None:
            parts.append(f"ε at most {self.dp.epsilon:g} at δ = {self.dp.delta:g}")
            if not self.secure:
                parts.append("which the server is trusted for where it adds the noise")
        return ", ".join(parts) or "nothing"


def unmet(demands: Demands, experiment: Experiment, sites: int) -> str | None:
    """The first demand that an experiment between this number of sites does not meet, in one sentence, or None."""
    secure, dp = experiment.privacy.secure, experiment.privacy.dp
    if demands.secure and secure is None:
        return "site.yaml demands secure, and the experiment has no privacy.secure"
    if secure is not None and demands.fellows:
        from fedloom.privacy.secure.protocol import threshold_of  # needs the extra `privacy`

        others = max(secure.least, threshold_of(secure.threshold, sites)) - 1
        if others < demands.fellows:
            return (
                f"site.yaml demands {demands.fellows} fellows, and this experiment between {sites} sites opens sums with "
                f"{others} others; privacy.secure.least has to be {demands.fellows + 1} or more"
            )
    if demands.dp is None:
        return None
    if dp is None:
        return "site.yaml demands dp, and the experiment has no privacy.dp"
    if fault := not_installed(experiment.privacy):
        return fault
    if dp.seeded:
        return "site.yaml demands dp, and whoever knows the seed can take off the noise of privacy.dp.seeded"
    if dp.delta > demands.dp.delta:
        return f"site.yaml demands δ of at most {demands.dp.delta:g}, and the experiment has {dp.delta:g}"
    if dp.in_turns:
        return (
            f"site.yaml demands dp, which a site counts sum by sum, and privacy.dp.mechanism: {dp.mechanism} takes noise back in "
            "later rounds; it has to be gaussian"
        )
    reached = _epsilon_of_run(with_multiplier(experiment))
    if reached > demands.dp.epsilon:
        return f"site.yaml demands ε of at most {demands.dp.epsilon:g}, and this experiment reaches {reached:.4g}"
    return None


def _epsilon_of_run(experiment: Experiment) -> float:
    """The ε of the experiment's last round, at its own sampling rate and δ."""
    dp, most = experiment.privacy.dp, experiment.rounds
    assert dp is not None  # noqa: S101 - the caller has looked
    accountant = Accountant.of(dp, experiment.cohort.fraction, sums_a_round(experiment))
    rounds = most if dp.epsilon is None else accountant.rounds(dp.epsilon, most)
    return accountant.epsilon(rounds)


class Spending:
    """The part of its demanded budget that a site has spent, kept in its folder.

    The server decides whom it asks, how often and in how many runs; so each sum counts as a Gaussian mechanism without a gain
    by sampling, whoever was drawn. k sums of multipliers z_i are one of 1 / sqrt(Σ 1 / z_i²).
    """

    def __init__(self, folder: Path, budget: Budget, dp: DP) -> None:
        """Read what has been spent. Raises ExperimentError for a damaged file."""
        self.file, self.budget, self.kind = folder / SPENT, budget, dp.accountant
        self._one = 1 / Accountant.of(dp, 1.0).noise_multiplier ** 2
        self.sums, self.inverse = 0, 0.0
        if not self.file.is_file():
            return
        try:
            fields = json.loads(self.file.read_text(encoding="utf-8"))
            self.sums, self.inverse = int(fields["sums"]), float(fields["inverse_square"])
            if not (self.sums >= 0 and 0 <= self.inverse < math.inf):
                raise ValueError("out of range")
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError(
                f"{self.file} is damaged; it counts what this site has spent of demands.dp, so that without it nothing is "
                "answered: restore it, or remove it to begin at 0"
            ) from error

    def epsilon(self, more: int = 0) -> float:
        """ε at the demanded δ of the sums so far and `more` of this experiment's."""
        inverse = self.inverse + more * self._one
        if not inverse:
            return 0.0
        return Accountant(1 / math.sqrt(inverse), 1.0, self.budget.delta, self.kind).epsilon(1)

    def refusal(self) -> str | None:
        """The sentence that refuses one more sum, or None."""
        if (after := self.epsilon(1)) <= self.budget.epsilon:
            return None
        return (
            f"this site demands ε of at most {self.budget.epsilon:g}; it has spent {self.epsilon():.4g} on {self.sums} "
            f"sums, and another would make it {after:.4g}"
        )

    def take(self) -> None:
        """Count one more sum, on the disk, before it is answered."""
        self.sums, self.inverse = self.sums + 1, self.inverse + self._one
        write_atomic(self.file, json.dumps({"sums": self.sums, "inverse_square": self.inverse}).encode())
