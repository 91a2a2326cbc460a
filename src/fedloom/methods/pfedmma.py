"""pFedMMA: multimodal adapters in CLIP; only their small projection shared by the towers travels.

Paper: "pFedMMA: Personalized Federated Fine-Tuning with Multi-Modal Adapter for Vision-Language Models", ICLR 2026:

    A(z) = U d(S d(D z)),   out = f(z) + alpha A(z)  in the last blocks of both towers;
    S' = sum p_i S_i over the round's clients, sent to all; D_i and U_i stay.

The preset `paper` is a reconstruction: three blocks, rank 32 and no biases are the one setting that gives its 248,832 trained and
3,072 shared numbers on ViT-B/16; that the blocks are the last three is our reading. `released` is the published code's setting.

Deliberate differences from the released code: text features are never older than the parameters that made them; every
participation has an optimiser of its own; blocks are counted from the top, so that towers of unequal depth are adapted at
their end; training pictures are not augmented; the last, smaller batch of an epoch counts; a cohort is rounded up.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.method import Combination, State, Trainer
from fedloom.methods.mma import BASE_PRESETS, WithAdapters

S, TEXT, VISION = "adapter/shared.*", "adapter/text.*", "adapter/vision.*"
Share = Literal["s", "s_and_text", "s_and_vision", "text_only", "vision_only", "towers", "all", "none"]
SHARED: Mapping[Share, tuple[str, ...]] = {
    "s": (S,),
    "s_and_text": (S, TEXT),
    "s_and_vision": (S, VISION),
    "text_only": (TEXT,),
    "vision_only": (VISION,),
    "towers": (TEXT, VISION),
    "all": (S, TEXT, VISION),
    "none": (),
}
"""Shared patterns by the value of the option `share`; the rest is personal."""
UPLOADED = "uploaded:"
"""Prefix of a shared tensor's name: the client's own last value of it."""


def scope_of(share: Share) -> Scope:
    """The scope of an option."""
    return Scope(shared=SHARED[share], personal=tuple(p for p in (S, TEXT, VISION) if p not in SHARED[share]))


class PFedMMA(WithAdapters):
    """S' = sum p_i S_i; D_i, U_i personal."""

    name: ClassVar[str] = "pfedmma"
    title: ClassVar[str] = "pFedMMA"
    paper: ClassVar[str] = "pFedMMA (ICLR 2026); preset paper: a reconstruction"
    shares: ClassVar[Scope] = scope_of("s")
    combination: ClassVar[Combination] = "mean"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = BASE_PRESETS

    preset: Literal["paper", "released"] = Field(
        "paper",
        description="paper: 3 blocks, no biases, a reconstruction; released: the code's 8 blocks with biases",
    )
    share: Share = Field(
        "s", description="shared tensors: S, S with a tower's D and U, a tower's alone, or none"
    )
    eval_point: Literal["after_broadcast", "before_upload"] = Field(
        "after_broadcast", description="clients are evaluated with the server's S, or with their own last one"
    )

    @property
    def scope(self) -> Scope:
        """The scope that the option `share` selects."""
        chosen = scope_of(self.share)
        return replace(super().scope, shared=chosen.shared, personal=(*chosen.personal, *self.personal))

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train D, S and U; keep D and U, return S."""
        own = {n: t for n, t in trainer.personal.items() if not n.startswith(UPLOADED)}
        reply = self.answer(trainer, *trainer.train({**payload.tensors, **own}))
        if self.eval_point == "before_upload":
            trainer.keep({UPLOADED + n: t for n, t in reply.tensors.items()})
        return reply

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """D_i and U_i with the server's S, or with the client's own last one."""
        return {n.removeprefix(UPLOADED): t for n, t in sorted(personal.items(), reverse=True)}
