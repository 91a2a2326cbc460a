"""One file per published method; reading it is reading the paper's algorithm box."""

from fedloom.methods.base import Ask, Method, State, Trainer
from fedloom.methods.centralised import Centralised
from fedloom.methods.feda2_lora import FedA2LoRA
from fedloom.methods.fedavg_lora import FedAvgLoRA
from fedloom.methods.local_only import LocalOnly

METHODS: dict[str, type[Method]] = {m.name: m for m in (FedAvgLoRA, FedA2LoRA, LocalOnly, Centralised)}
"""Every method by the name that an experiment uses."""

__all__ = [
    "METHODS",
    "Ask",
    "Centralised",
    "FedA2LoRA",
    "FedAvgLoRA",
    "LocalOnly",
    "Method",
    "State",
    "Trainer",
]
