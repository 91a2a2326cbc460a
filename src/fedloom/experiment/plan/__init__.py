"""`fedloom plan`: what a run loads, trains, sends and takes, before it begins."""

from fedloom.experiment.plan.process import distinct, plan
from fedloom.experiment.plan.result import Plan

__all__ = ["Plan", "distinct", "plan"]
