"""Declarations of the figures that a method measures itself."""

from dataclasses import dataclass
from typing import Literal

from fedloom.core.unit import Unit


@dataclass(frozen=True)
class Measure:
    """Name, unit and direction of a figure of `Method.measured`, for tables and reports."""

    name: str
    """The last part of the figure's name, such as `rank` of `canonical/projector/rank`."""
    title: str
    unit: Unit = "number"
    better: Literal["higher", "lower"] | None = None
    """Which values are better; None where neither is."""
