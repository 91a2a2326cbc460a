"""The model bank: one model per architecture, for clients with models of their own; every client has one architecture.

A tensor's group is its architecture, so that averages over the holders of a group are averages per architecture. The encoders
stay in eval mode, like all foundations: no dropout, and normalisation statistics from the checkpoint.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.payload import group_of
from fedloom.core.shared_results import SharedResults, tensor_bytes
from fedloom.data.sample import Sample, modality_of
from fedloom.data.sources.labelled import as_texts
from fedloom.models.base import Trainable, means
from fedloom.models.own.architectures import Architecture, raw_input, save_architecture
from fedloom.models.own.readers import BankReading, Reader
from fedloom.models.precision import moved, placed

PUBLIC, KNOWLEDGE = "public", "knowledge"
"""Groups of the public items, and of the knowledge about them; every client has both."""
ITEMS = f"{PUBLIC}/items"


@dataclass(frozen=True, eq=False)
class OwnExample:
    """Inputs for one sample by the name of their reader, which equal architectures share, and its label (-1 if unlabelled)."""

    inputs: Mapping[str, Mapping[str, Tensor]]
    label: int


def _bytes(example: OwnExample) -> int:
    return sum(tensor_bytes(t) for own in example.inputs.values() for t in own.values())


class ModelBank(Trainable):
    """The architectures of a run; `of_client` names each client's. The architecture loaded last is active."""

    stackable = False
    one_model = False

    def __init__(
        self, architectures: Sequence[Architecture], of_client: Mapping[str, str], names: Sequence[str]
    ) -> None:
        self.names = tuple(names)
        self.width = int(architectures[0].net.projection.out_features)
        self.architectures = {group_name(a.name): a for a in architectures}
        self.of_client = {client: group_name(name) for client, name in of_client.items()}
        self._root = nn.ModuleDict({g.replace(".", "_"): a.net for g, a in self.architectures.items()})
        self.current = next(iter(self.architectures.values()))
        self._inputs: SharedResults[tuple[Sample, OwnExample]] = SharedResults(lambda kept: _bytes(kept[1]))
        self._readers: dict[str, Reader] = {}
        self._reader_of: dict[str, str] = {}
        for group, architecture in self.architectures.items():
            equal = (name for name, reader in self._readers.items() if reader == architecture.read)
            self._reader_of[group] = name = next(equal, group)
            self._readers[name] = architecture.read
        super().__init__(
            {f"{g}/{n}": p for g, a in self.architectures.items() for n, p in a.net.named_parameters()},
            {},
            {},
        )

    @classmethod
    def of(cls, model: Trainable) -> "ModelBank":
        """The model as a bank. Raises TypeError for another kind of model."""
        if not isinstance(model, cls):
            raise TypeError("the method needs clients with models of their own")
        return model

    @property
    def root(self) -> nn.Module:
        """All architectures."""
        return self._root

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """The client's architecture, the public items, and the knowledge about them."""
        if client is None:
            raise TypeError("each client has an architecture of its own; name the client")
        return frozenset({self.of_client[client], PUBLIC, KNOWLEDGE})

    @property
    def modalities(self) -> dict[str, str]:
        """Each client's modality."""
        return {client: self.architectures[g].modality for client, g in self.of_client.items()}

    def load(self, tensors: Mapping[str, Tensor], ratios: Mapping[str, float] | None = None) -> None:
        """See Trainable; tensors of a single architecture make it active."""
        super().load(tensors, ratios)
        self._choose(tensors)

    def begin(self, names: Collection[str]) -> list[nn.Parameter]:
        """See Trainable; activates the architecture of these tensors."""
        self._choose(names)
        return super().begin(names)

    def _choose(self, names: Collection[str]) -> None:
        if len(groups := {group_of(n) for n in names}) == 1:
            self.current = self.architectures[groups.pop()]

    def prepare(self, sample: Sample, client: str | None = None) -> Sample | OwnExample:
        """The input of the client's architecture; without a client the sample itself. Raises ExperimentError."""
        self._check(sample)
        return sample if client is None else self._read(self.architectures[self.of_client[client]], sample)

    @cached_property
    def reading(self) -> BankReading:
        """See `loading.prepared.ReadsFiles`."""
        readers: dict[str, dict[str, Reader]] = {}
        for name, reader in self._readers.items():
            readers.setdefault(self.architectures[name].modality, {})[name] = reader
        return BankReading({m: own for m, own in readers.items() if m != "text"})

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> OwnExample:
        """The inputs of all architectures of the sample's modality; see `loading.prepared.ReadsFiles`."""
        self._check(sample)
        named: dict[str, dict[str, Tensor]] = {}
        for name, tensor in inputs.items():
            reader, _, argument = name.partition("/")
            named.setdefault(reader, {})[argument] = tensor
        return OwnExample(named, int(sample.meta["label"]))

    def _check(self, sample: Sample) -> None:
        """Raise ExperimentError for a sample without a label, or with several inputs of one modality."""
        if "label" not in sample.meta:
            raise ExperimentError(
                f"{sample.uid} has no label; clients with models of their own need data.source labelled"
            )
        if several := [key for key in sample.modalities if key != modality_of(key)]:
            raise ExperimentError(
                f"{sample.uid} has several inputs of {modality_of(several[0])}, and clients with models of their own read one"
            )

    def _read(self, architecture: Architecture, sample: Sample) -> OwnExample:
        return self._example(
            architecture, raw_input(sample, architecture.modality), int(sample.meta["label"])
        )

    def _example(self, architecture: Architecture, raw: Any, label: int = -1) -> OwnExample:
        return OwnExample({self._reader_of[group_name(architecture.name)]: architecture.read(raw)}, label)

    def read(self, examples: Sequence[Sample | OwnExample]) -> list[OwnExample]:
        """The examples, samples among them as inputs of the active architecture; equal architectures read a sample once."""
        return [e if isinstance(e, OwnExample) else self._kept(e) for e in examples]

    def _kept(self, sample: Sample) -> OwnExample:
        """A test sample's inputs, which every evaluation of every client's model needs again."""
        reader = self._reader_of[group_name(self.current.name)]
        key = (
            f"{reader} {id(sample)}".encode()
        )  # the store holds the sample, so that no other one gets its id
        _, example = self._inputs.of(key, lambda: (sample, self._read(self.current, sample)))
        return example

    def read_items(self, items: Tensor, client: str) -> list[OwnExample]:
        """Inputs of a client's architecture for public items (see `models.generation.public_set`)."""
        architecture = self.architectures[self.of_client[client]]
        raw: Sequence[Any] = as_texts(items) if architecture.modality == "text" else list(items)
        return [self._example(architecture, x) for x in raw]

    def outputs(self, examples: Sequence[OwnExample]) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and unit representations (B, d) by the active architecture, with gradients if enabled."""
        like = self.current.net.head.weight
        reader = self._reader_of[group_name(self.current.name)]
        inputs = [e.inputs[reader] for e in examples]
        stacked = {n: moved(torch.stack([own[n] for own in inputs]), like.device) for n in inputs[0]}
        stacked = {n: t.to(like.dtype) if t.is_floating_point() else t for n, t in stacked.items()}
        outputs: tuple[Tensor, Tensor] = self.current.net(stacked)
        return outputs

    def losses(
        self,
        examples: Sequence[OwnExample],
        owners: Sequence[int],
        count: int,
        features: Sequence[Any] | None = None,
    ) -> Tensor:
        """See Trainable: mean cross-entropy of each owner's examples."""
        logits, _ = self.outputs(examples)
        labels = placed([e.label for e in examples], logits.device)
        each = cross_entropy(logits, labels, reduction="none")
        return means(each, placed(owners, logits.device), count)

    @torch.no_grad()
    def inferred(
        self, tensors: Mapping[str, Tensor], examples: Sequence[OwnExample], batch: int = 128
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and unit representations (N, d) by the model with these tensors, which stays loaded; no gradients."""
        self.load(tensors)
        parts = [self.outputs(examples[i : i + batch]) for i in range(0, len(examples), batch)]
        return torch.cat([p for p, _ in parts]), torch.cat([z for _, z in parts])

    @torch.no_grad()
    def guesses(self, examples: Sequence[Sample | OwnExample], batch: int = 128) -> list[int]:
        """The likeliest class of each example or sample, by the active model; they are read batch by batch."""
        parts = (self.outputs(self.read(examples[i : i + batch]))[0] for i in range(0, len(examples), batch))
        return [guess for logits in parts for guess in logits.argmax(-1).tolist()]

    def score(
        self, examples: Sequence[OwnExample], features: Sequence[Any] | None = None
    ) -> list[tuple[int, int]]:
        """(1, 1) for a right label, (1, 0) for a wrong one."""
        return [(1, int(g == e.label)) for g, e in zip(self.guesses(examples), examples, strict=True)]

    def generate(
        self, examples: Sequence[OwnExample], max_new_tokens: int, features: Sequence[Any] | None = None
    ) -> list[str]:
        """The likeliest class's name."""
        return [self.names[g] for g in self.guesses(examples)]

    def classify(self, inputs: Mapping[str, Any]) -> str:
        """The likeliest class of one input in the modality of the active model: picture, waveform or text.

        Raises ExperimentError unless that modality is the only input.
        """
        modality = self.current.modality
        if set(inputs) != {modality}:
            option = {"image": "--image", "audio": "--audio", "text": "--question"}[modality]
            raise ExperimentError(
                f"this client's model reads one input, of the modality {modality}; give {option} alone"
            )
        return self.names[self.guesses([self._example(self.current, inputs[modality])])[0]]

    def save_adapters(self, folder: Path) -> None:
        """Write the active architecture: `encoder/` in transformers' format, `classifier.safetensors`, `fedloom.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        group = group_name(self.current.name)
        own = {n.partition("/")[2]: t.detach().cpu() for n, t in self.tensors.items() if group_of(n) == group}
        save_architecture(self.current, own, folder)
        description = {
            "adapters": [],
            "architecture": self.current.name,
            "modality": self.current.modality,
            "labels": list(self.names),
        }
        write_atomic(folder / "fedloom.json", (json.dumps(description, indent=2) + "\n").encode())

    @staticmethod
    def read_adapters(folder: Path) -> dict[str, Tensor]:
        """The tensors that `save_adapters` wrote, by their payload names."""
        from safetensors.torch import load_file
        from transformers import AutoModel

        description = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
        group = group_name(description["architecture"])
        # transformers' tensor names on disk differ from its modules'.
        with quiet_hf():
            encoder = AutoModel.from_pretrained(folder / "encoder", dtype=torch.float32)
        tensors = {f"{group}/encoder.{n}": p.detach() for n, p in encoder.named_parameters()}
        return tensors | {f"{group}/{n}": t for n, t in load_file(folder / "classifier.safetensors").items()}


def group_name(architecture: str) -> str:
    """An architecture's name as a group name; a slash would end the group."""
    return architecture.rstrip("/").replace("/", "--")


def deal(clients: Mapping[str, str], architectures: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each client's architecture: round-robin over those of its modality, clients in name order.

    Raises ExperimentError for a modality without architectures, and for an architecture of two modalities.
    """
    pairs = [(name, modality) for modality, names in architectures.items() for name in names]
    if repeated := sorted({name for name, m in pairs if any(n == name and o != m for n, o in pairs)}):
        raise ExperimentError(
            f"model.architectures names {repeated[0]} for more than one modality; one model reads one, give each its own"
        )
    architecture_of, used = {}, dict.fromkeys(architectures, 0)
    for client in sorted(clients):
        modality = clients[client]
        if not architectures.get(modality):
            raise ExperimentError(
                f"model.architectures has none for clients that hold {modality}, such as {client}; name at least one"
            )
        architecture_of[client] = architectures[modality][used[modality] % len(architectures[modality])]
        used[modality] += 1
    return architecture_of
