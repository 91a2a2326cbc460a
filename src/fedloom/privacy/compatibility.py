"""Compatibility of methods with privacy settings, derived from `Method.combination`."""

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fedloom.core.shares import at_least
from fedloom.privacy.settings import Privacy

if TYPE_CHECKING:
    from fedloom.methods.base.method import Combination, Method

WHY: Mapping["Combination", str] = {
    "products": "combines the products B_k A_k of single clients, which no mean of factors gives",
    "individual": "looks at every client's tensors by themselves",
    "nothing": "shares nothing that could be protected",
}
"""Reasons why a method cannot work on means alone."""


def works(combination: "Combination") -> bool:
    """Whether methods of this kind work on means, which secure aggregation and differential privacy give."""
    return combination in ("mean", "solve")


def asks(combination: "Combination") -> int:
    """Means per round that methods of this kind need; each is one query to the clients' data."""
    return 2 if combination == "solve" else 1


def private(method: "type[Method]") -> bool:
    """Whether a method works with `privacy`."""
    return works(method.combination) and not method.pooled


def why_not(method: "type[Method]") -> str:
    """The reason why a method works without `privacy` only."""
    return "has one client" if method.pooled else WHY[method.combination]


def refusal(
    privacy: Privacy, method: "Method", kinds: Collection[str], unequal: bool, full_first_round: bool
) -> str | None:
    """Reason why the method cannot run under these settings, in one sentence, or None. `kinds` are the adapters'."""
    if not privacy.sums:
        return None
    setting = "privacy.secure" if privacy.secure is not None else "privacy.dp"
    name, combination = f"method {method.name}", method.combination
    if method.pooled:
        return f"{name} has one client, so that there is no sum to hide it in; leave privacy out"
    if combination in WHY:
        other = "leave privacy out" if combination == "nothing" else f"take {_private_lora()}"
        return f"{name} {WHY[combination]}, so that {setting} cannot work; {other}"
    if unequal:
        return f"{setting} sums tensors of one shape, but clients' ranks or scales differ; leave cohort.ranks out"
    if combination == "solve" and "vera" in kinds:
        return f"{name} solves VeRA's vectors from every client's own, so that {setting} cannot work; set kind: lora"
    if privacy.dp is None:
        return None
    if method.weights != "uniform":
        return "privacy.dp counts every client alike; set method.weights: uniform"
    if full_first_round:
        return "privacy.dp accounts for one sampling rate in all rounds; leave cohort.full_first_round out"
    return None


def _private_lora() -> str:
    """The LoRA methods that work with `privacy`, as a list in words."""
    from fedloom.methods import lora_methods

    return lora_methods(private)


def not_installed(privacy: Privacy) -> str | None:
    """The package that these settings need and that is not installed, in one sentence, or None."""
    needed = {
        "cryptography": privacy.sums,
        "Crypto": privacy.secure is not None,
        "dp_accounting": privacy.dp is not None,
    }
    lacking = [name for name, used in needed.items() if used and find_spec(name) is None]
    return (
        f"privacy needs {lacking[0]}, which is not installed; install fedloom[privacy]" if lacking else None
    )


def too_few(privacy: Privacy, groups: Mapping[str, Collection[str]], fraction: float) -> str | None:
    """Reason why secure aggregation could never open a sum over these clients, each with its groups, or None."""
    if privacy.secure is None:
        return None
    least, size = privacy.secure.least, max(1, at_least(fraction, len(groups)))
    if size < least:
        return (
            f"privacy.secure opens no sum of fewer than {least} clients, and a round asks {size}; "
            "take more clients, or lower privacy.secure.least"
        )
    for group in sorted({g for held in groups.values() for g in held}):
        holders = sum(group in held for held in groups.values())
        if holders < least:
            return (
                f"privacy.secure opens no sum of fewer than {least} clients, and {holders} hold {group}; give more clients "
                "that modality, keep the group with each client by method.personal, or lower privacy.secure.least"
            )
    return None
