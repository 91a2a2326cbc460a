"""One file per published method; reading it is reading the paper's algorithm box.

Here stands, too, all that most methods import: `from fedloom.methods import Ask, Method, Payload, Scope, State, mean_of`.
"""

from collections.abc import Callable

from fedloom.core.payload import Payload, Reply, Scope
from fedloom.methods.base.combine import combine_pairs, mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State, Trainer
from fedloom.methods.centralised import Centralised
from fedloom.methods.cocoop_fedavg import CoCoOpFedAvg
from fedloom.methods.creamfl import CreamFL
from fedloom.methods.fdlora import FDLoRA
from fedloom.methods.fed_sb import FedSB
from fedloom.methods.feda2_lora import FedA2LoRA
from fedloom.methods.fedadam import FedAdam
from fedloom.methods.fedavg import FedAvg
from fedloom.methods.fedavg_lora import FedAvgLoRA
from fedloom.methods.fedavgm import FedAvgM
from fedloom.methods.fedcmp import FedCMP
from fedloom.methods.feddf import FedDF
from fedloom.methods.feddpa_lora import FedDPALoRA
from fedloom.methods.fedex_lora import FedExLoRA
from fedloom.methods.fedmd import FedMD
from fedloom.methods.fedmmkt import FedMMKT
from fedloom.methods.fedotp import FedOTP
from fedloom.methods.fedpgp import FedPGP
from fedloom.methods.fedprox import FedProx
from fedloom.methods.fedrot_lora import FedRotLoRA
from fedloom.methods.fedsa_lora import FedSALoRA
from fedloom.methods.fedsvd import FedSVD
from fedloom.methods.ffa_lora import FFALoRA
from fedloom.methods.flexlora import FlexLoRA
from fedloom.methods.flora import FLoRA
from fedloom.methods.hetlora import HetLoRA
from fedloom.methods.local_only import LocalOnly
from fedloom.methods.lora_fair import LoRAFAIR
from fedloom.methods.mma import MMA
from fedloom.methods.pfedmma import PFedMMA
from fedloom.methods.pfedmoap import PFedMoAP
from fedloom.methods.promptfl import PromptFL
from fedloom.methods.rolora import RoLoRA
from fedloom.methods.scaffold import Scaffold
from fedloom.methods.scalar_reliability import ScalarReliability
from fedloom.methods.zero_shot import ZeroShot

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        FedAvgLoRA,
        FedA2LoRA,
        FFALoRA,
        FedSALoRA,
        FedExLoRA,
        FedDPALoRA,
        FDLoRA,
        FLoRA,
        FlexLoRA,
        HetLoRA,
        LoRAFAIR,
        RoLoRA,
        FedSVD,
        FedRotLoRA,
        FedSB,
        FedAvg,
        FedProx,
        FedAvgM,
        FedAdam,
        Scaffold,
        ScalarReliability,
        FedCMP,
        LocalOnly,
        Centralised,
        PFedMMA,
        ZeroShot,
        PromptFL,
        CoCoOpFedAvg,
        FedPGP,
        FedOTP,
        PFedMoAP,
        MMA,
        FedMMKT,
        FedMD,
        FedDF,
        CreamFL,
    )
}
"""Every method by the name that an experiment uses."""


def lora_methods(condition: Callable[[type[Method]], bool]) -> str:
    """The LoRA methods that meet `condition`, as a list in words for a message; "a LoRA method" if there are none."""
    names = [n for n, m in METHODS.items() if condition(m) and any("lora" in p for p in m.shares.shared)]
    *most, last = names or ["a LoRA method"]
    return f"{', '.join(most)} or {last}" if most else last


__all__ = [
    "METHODS",
    "Ask",
    "Combination",
    "Method",
    "Payload",
    "Reply",
    "Scope",
    "State",
    "Trainer",
    "combine_pairs",
    "lora_methods",
    "mean_of",
]
