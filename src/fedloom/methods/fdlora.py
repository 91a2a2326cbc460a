"""FDLoRA: a personal adapter and a shared one, an outer optimiser on the server, and two scalars that fuse the adapters.

Paper: Qi et al., "FDLoRA: Personalized Federated Learning of Large Language Model via Dual LoRA Tuning", 2024; a reconstruction
from its abstract, which names the parts and not their settings. A client trains its personal adapter alone, then the shared
one alone (the inner optimiser). The server takes the mean change as a gradient for Nesterov's momentum (the outer optimiser, as
in DiLoCo): v' = beta v + D, w' = w + lr (D + beta v'). A client answers with w_p personal + w_g shared, the scalars found
without gradients on a few of its samples.

Deliberate differences:
- Only the LoRA pairs are two; a head and a projector are shared and take the outer step, too.
- Every round is synchronised, with the outer rate and momentum of DiLoCo (0.7 and 0.9).
- The scalars are searched in every round, one after the other from 0 to 1, with the personal adapter just trained and the
  shared one that came: one round older than the one that they are then used with, for no further traffic.
- They are searched on training samples: clients here set none aside.
- Outputs are fused, never factors (the product of fused factors has cross terms): a scalar multiplies its B.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation import server
from fedloom.core.payload import Payload, Scope
from fedloom.core.streams import numpy_stream
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer

_LOCAL = ("*.local_*",)
SCALARS = "fusion/scalars"
"""Personal tensor (2,): the scalars of the personal and of the shared adapter."""


class FDLoRA(Method):
    """w' = w + lr (D + beta v'), v' = beta v + D, D the mean change; a client's update is w_p B_p A_p + w_g B_g A_g."""

    name: ClassVar[str] = "fdlora"
    title: ClassVar[str] = "FDLoRA"
    paper: ClassVar[str] = "Qi et al. (2024)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR), personal=(*_LOCAL, SCALARS))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True
    second: ClassVar[bool] = True
    vera: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = ("method.server",)

    outer_lr: float = Field(0.7, gt=0, description="the outer optimiser's rate")
    outer_momentum: float = Field(0.9, ge=0, lt=1, description="the outer optimiser's momentum (Nesterov)")
    points: int = Field(
        6, ge=2, description="values of each scalar, evenly from 0 to 1, that the search tries"
    )
    samples: int = Field(16, ge=1, description="training samples on which the scalars are searched")

    def round(self, state: State, ask: Ask) -> State:
        """Train from w; the outer optimiser moves along the mean change."""
        replies = ask("train", Payload(state.shared))
        mean = mean_of(replies, self.client_weights(replies))
        moved, kept = server.nesterov(state.shared, mean, state.tensors, self.outer_momentum, self.outer_lr)
        return State({**state.shared, **moved}, {**state.tensors, **kept}, state.values)

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train the personal adapter, search the scalars, then train the shared adapter alone."""
        start = {**payload.tensors, **{n: t for n, t in trainer.personal.items() if n != SCALARS}}
        own, _ = trainer.train(start, only=Scope(shared=_LOCAL), local=1.0)
        start |= own
        scalars = self._search(start, trainer)
        trained, numbers = trainer.train(start, only=Scope(shared=("*",), frozen=_LOCAL), local=0.0)
        trainer.keep({**own, SCALARS: scalars})
        return self.answer(trainer, trained, numbers)

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Both adapters, each B times its scalar. See Method."""
        own = {n: t for n, t in personal.items() if n != SCALARS}
        if SCALARS not in personal:
            return own
        local, common = personal[SCALARS].tolist()
        shared = {name: state.shared[name] for n in own if (name := _shared_b(n)) in state.shared}
        return fused({**own, **shared}, local, common)

    @torch.no_grad()
    def _search(self, tensors: Mapping[str, Tensor], trainer: Trainer) -> Tensor:
        """The personal adapter's scalar of lowest loss, then the shared one's; of equals the larger (1 if none is finite)."""
        model, examples = trainer.model, trainer.examples
        rng = numpy_stream(trainer.seed, "fusion", trainer.round, trainer.client)
        count = min(self.samples, len(examples))
        few = [examples[int(i)] for i in sorted(rng.choice(len(examples), size=count, replace=False))]
        best, least = (1.0, 1.0), float("inf")
        values = [i / (self.points - 1) for i in reversed(range(self.points))]
        for place in (0, 1):
            start = best
            for value in values:
                pair = (value, start[1]) if place == 0 else (start[0], value)
                trainer.load(fused(tensors, *pair), local=None)
                loss = float(model.losses(few, [0] * count, 1)[0])
                if loss < least:
                    best, least = pair, loss
        return torch.tensor(best)


def _shared_b(name: str) -> str:
    """The shared B beside a personal one; another name for other tensors."""
    return name.removesuffix("local_B") + "lora_B" if name.endswith(".local_B") else ""


def fused(tensors: Mapping[str, Tensor], local: float, common: float) -> dict[str, Tensor]:
    """The tensors with every personal B times `local` and every shared one times `common`."""
    scale = {".local_B": local, ".lora_B": common}
    return {n: t * scale.get(n[n.rfind(".") :], 1.0) for n, t in tensors.items()}
