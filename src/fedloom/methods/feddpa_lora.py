"""FedDPA-LoRA: a shared global adapter and a personal local one, mixed by a question's similarity to the client's prompts.

Paper: Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024. From round 2 on a client first
trains its local adapter with output W0 x + s [a B_l A_l x + (1 - a) B_g A_g x], the global one frozen, and then the
global adapter alone, which is averaged. At inference the local adapter's weight is w = 0.5 times the mean cosine between the
prompt's last state and those of a few training prompts.

Deliberate differences:
- Only the LoRA pairs have two adapters; a head and a projector are shared, as in every method here.
- Outputs are mixed, never factors (published ports interpolate A and B, which adds cross terms).
- States come from the frozen LLM, adapters off, so that the training prompts' states never go stale; a text classifier's is that
  of its first token, which its head reads.
- In a multimodal LLM the weight of an example applies to the LLM; the encoders mix with the fixed a.
- `variant=additive` is the simpler baseline of the FedSA-LoRA repository: both adapters count in full and train together. It is
  the only one defined for VeRA.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload, Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import numpy_stream
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer
from fedloom.models.base import PROMPT_STATES, HasPromptStates

_LOCAL = ("*.local_*",)


class FedDPALoRA(Method):
    """A_g' = sum p_k A_g,k, B_g' = sum p_k B_g,k; (A_l, B_l) personal."""

    name: ClassVar[str] = "feddpa-lora"
    title: ClassVar[str] = "FedDPA-LoRA"
    paper: ClassVar[str] = "Yang et al. (NeurIPS 2024)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR), personal=(*_LOCAL, PROMPT_STATES))
    combination: ClassVar[Combination] = "mean"
    second: ClassVar[bool] = True

    variant: Literal["dual", "additive"] = Field(
        "dual", description="dual: the paper's; additive: both adapters with weight 1, trained together"
    )
    mix: Annotated[float, ReadWith(".variant", ("dual",))] = Field(
        0.5, gt=0, lt=1, description="a, the local adapter's weight during its training"
    )
    prompts: Annotated[int, ReadWith(".variant", ("dual",))] = Field(
        5, ge=1, description="number of training prompts for the mixing weight of an answer"
    )

    def check(self, kinds: Collection[str], unequal: bool, start: Literal["common", "own"]) -> str | None:
        """Refuses VeRA for the variant `dual`, whose mixing weights are LoRA scales. See Method."""
        if "vera" in kinds and self.variant == "dual":
            return "feddpa-lora mixes two LoRA adapters by weight; for VeRA set method.variant: additive"
        return super().check(kinds, unequal, start)

    def round(self, state: State, ask: Ask) -> State:
        """Average the global adapter."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train the local adapter (from round 2 on), then the global one alone."""
        start = {**payload.tensors, **trainer.personal}
        if self.variant == "additive":
            return self.answer(trainer, *trainer.train(start, local=None))
        own: dict[str, Tensor] = {}
        if trainer.round > 1:
            own, _ = trainer.train(start, only=Scope(shared=_LOCAL), local=self.mix)
            own[PROMPT_STATES] = self._prompt_states({**start, **own}, trainer)
        reply = self.answer(
            trainer, *trainer.train(start, only=Scope(shared=("*",), frozen=_LOCAL), local=0.0)
        )
        trainer.keep(own)
        return reply

    def _prompt_states(self, tensors: Mapping[str, Tensor], trainer: Trainer) -> Tensor:
        """(prompts, d): the frozen model's states of a few training prompts, drawn from the client's own stream.

        Modules before the language model, such as an encoder, run with `tensors`, both adapters mixed.
        """
        model, examples = trainer.model, trainer.examples
        assert isinstance(model, HasPromptStates)  # noqa: S101 - `check` saw to it
        count = min(self.prompts, len(examples))
        rng = numpy_stream(trainer.seed, "prompts", trainer.client)
        chosen = sorted(int(i) for i in rng.choice(len(examples), size=count, replace=False))
        trainer.load(tensors, local=self.mix)
        return model.prompt_states([examples[i] for i in chosen]).detach()
