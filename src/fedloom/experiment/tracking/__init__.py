"""Trackers of a run: TensorBoard, Weights & Biases and MLflow, as callbacks of the round loop (docs/tracking.md)."""

from fedloom.experiment.tracking.settings import Track
from fedloom.experiment.tracking.tracker import TrackedRun
from fedloom.experiment.tracking.tracking import Tracking

__all__ = ["Track", "TrackedRun", "Tracking"]
