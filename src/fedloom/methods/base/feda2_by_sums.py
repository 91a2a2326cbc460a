"""FedA²-LoRA's round where the server sees sums alone: two asks instead of one for every client's factors.

Paper: UniFLoW (ICML 2026), Eq. 9-13. The solve needs A' = sum p_k A_k and N = sum p_k B_k (A_k A'^T) = U A'^T, and with a centred
ridge the mean of the B_k: all of them sums. Clients know their own A_k and B_k, and learn A' from the first ask. Uplink: A and
N are as many numbers as A and B; the mean of B is half as many again.

The second ask returns B_k (A_k A'^T) - B (A A'^T), the change against the pair that was sent to all: a small vector, which can be
clipped. A client that is lost between the two asks counts in A' and not in N.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.method import SECOND, Ask, Method, State, Trainer

AVERAGE, PROJECT = "average", "project"
_FACTORS = "factors"
_PRODUCTS = Scope(shared=("*.lora_B",))
"""The second ask returns N in the place, and of the shape, of B."""


def solved_by_sums(
    state: State, ask: Ask, solve: Callable[[Tensor, Tensor, Tensor | None], Tensor], *, mean_of_b: bool
) -> State:
    """One round. `solve` makes B' (d_out, r) of A' (r, d_in), N (d_out, r) and, with `mean_of_b`, the mean of the B_k."""
    first = Scope(shared=("*",), frozen=() if mean_of_b else SECOND)
    (mean,) = ask(AVERAGE, Payload(state.shared), expect=first)  # Eq. 9: A' = sum p_k A_k
    combined = dict(mean.payload.tensors)
    A = {n: t for n, t in combined.items() if n.endswith("lora_A")}
    (sums,) = ask(PROJECT, Payload(A), mean.clients, expect=_PRODUCTS)  # sum p_k B_k (A_k A'^T) - B (A A'^T)
    before = _projected(state.shared, A)
    for name, A_bar in A.items():
        second = name.removesuffix("lora_A") + "lora_B"
        B_bar = combined.pop(second, None)
        if second in sums.payload.tensors:  # Eq. 10-13
            N = before[second] + sums.payload.tensors[second].to(before[second])
            combined[second] = solve(A_bar, N, B_bar)
        else:  # too few holders were left: the pair is unchanged
            del combined[name]
    return state.with_shared(combined)


def client_by_sums(method: Method, request: str, payload: Payload, trainer: Trainer) -> Payload | None:
    """A client's answer to the two asks; None for any other request."""
    if request == AVERAGE:
        reply = Method.client(method, "train", payload, trainer)
        trainer.memory[_FACTORS] = payload.tensors, reply
        return reply
    if request == PROJECT:
        start, trained = trainer.memory.pop(_FACTORS)
        before, after = _projected(start, payload.tensors), _projected(trained.tensors, payload.tensors)
        numbers = {"examples": trained.numbers["examples"]}
        return Payload({n: t - before[n] for n, t in after.items()}, numbers)
    return None


def _projected(pair: Mapping[str, Tensor], A: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B (A_own A'^T), (d_out, r), under B's name, for every A' whose layer `pair` holds in full."""
    products = {}
    for name, A_bar in A.items():
        second = name.removesuffix("lora_A") + "lora_B"
        if name in pair and second in pair:
            products[second] = lora.feda2_project(pair[name], pair[second], A_bar)
    return products
