"""The rival: a sequential loop over clients with plain PEFT and one wrapped model.

Per client: load the adapters' state dicts, a fresh AdamW per stage (UniFLoW Eq. 7), the same batches in the same order and the
same loss, read the state dicts back; then every tensor's mean over the clients that sent it. The model's forward pass and the
prepared examples are the project's own, so that only the training loop is compared. Parameters are in name order: clipping sums
their squares, and another order rounds the norm differently, which AdamW amplifies to 1e-5 for gradients near zero.
`benchmarks.flower` and `benchmarks.nvflare_client` run the same client inside their frameworks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from fedloom.aggregation import lora
from fedloom.experiment.settings import Experiment
from fedloom.models.mllm.load import load_model
from fedloom.models.training.settings import batches, local_steps, plan

Tensors = dict[str, Tensor]
ENDING, PREFIX = ".weight", "base_model.model."


class Plain:
    """One PEFT-wrapped model: the LLM, a trunk per modality, and the projector, or one per modality."""

    def __init__(self, experiment: Experiment, modalities: Sequence[str]) -> None:
        self.training, self.seed, self.rounds = experiment.training, experiment.seed, experiment.rounds
        self.mllm = load_model(experiment.model, modalities, "cpu", experiment.seed).mllm.eval()
        trunks: Any = self.mllm.encoder.trunks
        self.adapted: dict[str, Any] = {
            "llm": self.mllm.llm,
            **{f"encoder.{m}": t for m, t in trunks.items()},
        }
        self.parameters: dict[str, list[nn.Parameter]] = {
            group: [p for n, p in sorted(module.named_parameters()) if "lora_" in n]
            for group, module in self.adapted.items()
        }
        projector = self.mllm.projector
        self.projectors: dict[str, nn.Module] = (
            {f"projector.{m}": module for m, module in projector.items()}
            if isinstance(projector, nn.ModuleDict)
            else {"projector": projector}
        )
        for group, module in self.projectors.items():
            self.parameters[group] = [p for _, p in sorted(module.named_parameters())]

    def groups(self, holds: Sequence[str]) -> list[str]:
        """The trainable parts of a client with these modalities."""
        projectors = [
            g for g in self.projectors if holds and g.removeprefix("projector.") in ("projector", *holds)
        ]
        return ["llm", *(f"encoder.{m}" for m in sorted(holds)), *projectors]

    def read(self, groups: Sequence[str] = ()) -> Tensors:
        """A copy of these parts' state dicts (all parts if none is named), under `<group>/<PEFT's name>`."""
        tensors: Tensors = {}
        for group in groups or self.parameters:
            module = self.adapted.get(group)
            state = (
                self.projectors[group].state_dict()
                if module is None
                else get_peft_model_state_dict(module, save_embedding_layers=False)
            )
            tensors |= {f"{group}/{name}": tensor.detach().clone() for name, tensor in state.items()}
        return tensors

    def write(self, tensors: Mapping[str, Tensor], groups: Sequence[str]) -> None:
        """Load these parts' tensors into the model; parts without tensors stay."""
        for group in groups:
            if not any(n.startswith(group + "/") for n in tensors):
                continue
            state = {n.split("/", 1)[1]: t for n, t in tensors.items() if n.startswith(group + "/")}
            if group in self.projectors:
                self.projectors[group].load_state_dict(state)
            else:
                set_peft_model_state_dict(self.adapted[group], state)

    def train(
        self,
        start: Mapping[str, Tensor],
        examples: Sequence[Any],
        holds: Sequence[str],
        client: str,
        number: int,
    ) -> Tensors:
        """Train one client in round `number` from `start`; returns its trained tensors."""
        chosen, groups = self.training, self.groups(holds)
        self.write(start, groups)
        order = batches(len(examples), chosen, self.seed, client, number)
        trained: set[str] = set()
        for stage in plan(chosen, local_steps(len(examples), chosen), number, self.rounds, bool(holds)):
            active = sorted(g for g in groups if g.split(".")[0] in stage.parts)
            trained.update(active)
            for group, parameters in self.parameters.items():
                for parameter in parameters:
                    parameter.requires_grad_(group in active)
            parameters = [p for g in active for p in self.parameters[g]]
            optimiser = torch.optim.AdamW(
                parameters,
                lr=chosen.rate(number, self.rounds),
                betas=chosen.betas,
                weight_decay=chosen.weight_decay,
            )
            for _ in range(stage.steps):
                batch = [examples[i] for i in next(order)]
                features = None
                if "encoder" not in stage.parts:
                    with torch.no_grad():
                        features = self.mllm.features(batch)
                optimiser.zero_grad()
                self.mllm(batch, features).loss.backward()
                if chosen.clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, chosen.clip)
                optimiser.step()
        return self.read([g for g in groups if g in trained])


def average(replies: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """Mean of each tensor over the clients that sent it."""
    names = sorted({name for reply in replies for name in reply})
    return {n: torch.stack([r[n] for r in replies if n in r]).mean(0) for n in names}


def restore(replies: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """`average`, and FedA²-LoRA's solve for every pair of factors: B' minimises the distance of B'A' to the mean product."""
    combined = average(replies)
    for a in [n for n in combined if "lora_A" in n]:
        b = a.replace("lora_A", "lora_B")
        held = [r for r in replies if a in r]
        combined[a], combined[b] = lora.feda2(
            torch.stack([r[a] for r in held]), torch.stack([r[b] for r in held])
        )
    return combined


def travelling(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors under a federation's names."""
    renamed = {}
    for name, tensor in tensors.items():
        group, rest = name.split("/", 1)
        short = rest if group.split(".")[0] == "projector" else rest.removeprefix(PREFIX).removesuffix(ENDING)
        renamed[f"{group}/{short}"] = tensor
    return renamed


def difference(ours: Mapping[str, Tensor], rival: Mapping[str, Tensor]) -> float:
    """Largest absolute difference of two sets of tensors; KeyError unless they have the same names."""
    other = travelling(rival)
    if set(other) != set(ours):
        raise KeyError(f"the results differ in their names: {sorted(set(other) ^ set(ours))[:3]}")
    return max(float((ours[n] - other[n]).abs().max()) for n in ours)


def relative(ours: Mapping[str, Tensor], rival: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Distance of ours to the rival's over the rival's distance to `start`; Frobenius norms over all tensors."""
    names = sorted(ours)
    mine, theirs, first = (
        torch.cat([t[n].flatten() for n in names]) for t in (ours, travelling(rival), travelling(start))
    )
    return float((mine - theirs).norm() / (theirs - first).norm())


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors in name order as one vector."""
    return torch.cat([tensors[n].flatten() for n in sorted(tensors)])


def unflat(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """Inverse of `flat`, in the shapes of `like`."""
    parts = torch.split(vector, [like[n].numel() for n in sorted(like)])
    return {n: part.view_as(like[n]) for n, part in zip(sorted(like), parts, strict=True)}
