"""SCAFFOLD: control variates take the clients' drift out of every local step.

Paper: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, Algorithm 1.
Client: every gradient g becomes g - c_k + c; then c_k' = c_k - c + (w - w_k) / (J lr) (option II). Server: w' = w + lr_g mean
change; c' = c + |S|/K mean change of the c_k. Both w and c travel, in both directions: twice FedAvg's traffic.

Deliberate differences: option II recovers the mean of the local gradients from the distance that plain SGD went. Local training
here is AdamW, whose distance says nothing of that size, so c_k' is the mean of the gradients themselves, which is the same
number under SGD. Each tensor is averaged over the clients that trained it, and |S|/K counts those.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, LayerShape, Method, State, Trainer

SERVER, OWN = ".control", ".own_control"


class Scaffold(Method):
    """w_k follows g - c_k + c; w' = w + lr mean(w_k - w); c' = c + |S|/K mean(c_k' - c_k)."""

    name: ClassVar[str] = "scaffold"
    title: ClassVar[str] = "SCAFFOLD"
    paper: ClassVar[str] = "Karimireddy et al. (ICML 2020)"
    shares: ClassVar[Scope] = Scope(shared=("*",), personal=(f"*{OWN}",))
    combination: ClassVar[Combination] = "mean"

    lr: float = Field(1.0, gt=0, description="the server's rate; 1 takes the mean")
    clients: int | None = Field(
        None, ge=1, description="number of clients, for |S|/K; none = those that answer"
    )

    def start(self, tensors: Mapping[str, Tensor]) -> State:
        """Every shared tensor gets its control variate c = 0, which travels with it."""
        shared = self.scope.pick(tensors, "shared")
        return State({**shared, **{n + SERVER: torch.zeros_like(t) for n, t in shared.items()}})

    def round(self, state: State, ask: Ask) -> State:
        """Average w, move c by the mean change of the c_k."""
        replies = ask("train", Payload(state.shared))
        mean = mean_of(replies, self.client_weights(replies))
        for name, tensor in mean.items():
            old = state.shared[name]
            if not name.endswith(SERVER):
                mean[name] = old + self.lr * (tensor - old)
            else:  # clients send c + their change
                held = sum(r.trained_by(name) for r in replies)
                mean[name] = old + held / max(self.clients or held, held) * (tensor - old)
        return state.with_shared(mean)

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train along the corrected gradients; renew c_k; answer with w_k and c + (c_k' - c_k)."""
        start = {n: t for n, t in payload.tensors.items() if not n.endswith(SERVER)}
        c = {n: payload.tensors[n + SERVER] for n in start}
        own = {n: trainer.personal.get(n + OWN, torch.zeros_like(t)) for n, t in c.items()}
        push = {n: c[n] - own[n] for n in start}

        def corrected(tensors: Mapping[str, Tensor]) -> Tensor:  # its gradient is c - c_k
            return torch.stack([(push[n] * t).sum() for n, t in sorted(tensors.items())]).sum()

        kept = {n: t for n, t in trainer.personal.items() if not n.endswith(OWN)}
        tensors_and_gradients, numbers = trainer.train({**start, **kept}, penalty=corrected, gradients=True)
        trained = {n: t for n, t in tensors_and_gradients.items() if not n.endswith(".gradient")}
        new = {n: tensors_and_gradients[f"{n}.gradient"] - push[n] for n in trained if n in start}
        trainer.keep({n + OWN: t for n, t in new.items()})
        answer = self.answer(trainer, trained, numbers)
        moved = {n + SERVER: c[n] + new[n] - own[n] for n in new}
        return Payload({**answer.tensors, **moved}, answer.numbers)

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The shared tensors without their control variates."""
        return {n: t for n, t in state.shared.items() if not n.endswith(SERVER)}

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The experiment's personal tensors, without control variates, on the shared ones; empty without any."""
        own = {n: t for n, t in personal.items() if not n.endswith(OWN)}
        return {**self.global_model(state, {}), **own} if own else {}

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Twice FedAvg's, both ways."""
        return 2 * shared, 2 * shared, 2 * shared
