"""A frozen base with merged LoRA: low-rank changes that every client adds to its frozen weights, absent ones later.

The server keeps the changes of all rounds as factors, `<place>.merged_A` (q, d_in) and `merged_B` (d_out, q), with the newest
at the end; a client keeps the changes that it received and is sent the rest. The one frozen foundation is never edited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedloom.core.payload import Payload, Reply
from fedloom.methods.base.method import Method, State, Trainer

_AT = "merged_at"
"""A payload's number: directions of each place that its receiver should have already."""


def send(state: State, cohort: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, Payload]:
    """Each client's payload: `tensors`, and the changes of the base that it has not confirmed yet."""
    widths: Mapping[str, list[int]] = state.values.get("widths", {})
    payloads = {}
    for client in cohort:
        known = state.values.get("known", {}).get(client, 0)
        at = {place: sum(w[:known]) for place, w in widths.items()}
        changes = {}
        for place, start in at.items():
            changes[f"{place}.merged_A"] = state.tensors[f"{place}.merged_A"][start:]
            changes[f"{place}.merged_B"] = state.tensors[f"{place}.merged_B"][:, start:]
        payloads[client] = Payload({**tensors, **changes}, {_AT: at} if at else {})
    return payloads


def receive(payload: Payload, personal: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The payload's tensors without the changes, and all changes of the base that the client now knows."""
    at = payload.numbers.get(_AT, {})
    base = {n: t for n, t in personal.items() if n.endswith((".merged_A", ".merged_B"))}
    plain = {}
    for name, tensor in payload.tensors.items():
        if not name.endswith((".merged_A", ".merged_B")):
            plain[name] = tensor
            continue
        axis = 0 if name.endswith("A") else 1
        old = base.get(name)
        place = name.rsplit(".", 1)[0]
        # A client whose reply was refused is sent the same part again: it cuts back to the server's count.
        have = 0 if old is None else old.shape[axis]
        if have < at[place]:
            raise ValueError(
                f"{name} has {have} of the {at[place]} earlier directions; this client's state is lost"
            )
        kept = [] if old is None else [old.narrow(axis, 0, at[place])]
        base[name] = torch.cat([*kept, tensor], dim=axis)
    return plain, base


def extend(state: State, changes: Mapping[str, tuple[Tensor, Tensor]], replies: Sequence[Reply]) -> State:
    """The state with this round's changes, `{place: (B (d_out, q), A (q, d_in))}`, after its earlier ones.

    The clients that answered know everything up to the last round.
    """
    tensors, values = dict(state.tensors), dict(state.values)
    rounds = int(values.get("rounds", 0))
    widths = {place: list(w) for place, w in values.get("widths", {}).items()}
    for place, (B, A) in changes.items():
        name = place.rstrip(".")
        widths.setdefault(name, [0] * rounds)
        for key, new, axis in ((f"{name}.merged_A", A, 0), (f"{name}.merged_B", B, 1)):
            tensors[key] = torch.cat([tensors[key], new], dim=axis) if key in tensors else new.contiguous()
        widths[name].append(A.shape[0])
    for w in widths.values():
        w.extend([0] * (rounds + 1 - len(w)))
    known = {**values.get("known", {}), **{reply.client: rounds for reply in replies}}
    return State(state.shared, tensors, {**values, "widths": widths, "rounds": rounds + 1, "known": known})


class MovesBase(Method):
    """A method whose models stand on the base with all merged changes."""

    def fresh(self, trainer: Trainer) -> Mapping[str, Tensor]:
        """Adapters that the client draws anew each round; none by default."""
        return {}

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Merge the changes that have come into the base, then train the adapters on it."""
        tensors, base = receive(payload, trainer.personal)
        fresh = self.fresh(trainer)
        trainer.keep(base)
        return self.answer(trainer, *trainer.train({**fresh, **tensors, **trainer.personal, **base}))

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The shared tensors on the moved base."""
        return {**state.shared, **state.tensors}

    def without(self, state: State, client: str) -> State:
        """A client that joins again is sent all changes: its folder may be a new one."""
        known = {c: rounds for c, rounds in state.values.get("known", {}).items() if c != client}
        return replace(state, values={**state.values, "known": known}) if "known" in state.values else state

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The client's personal tensors on the moved base; empty where it has none, because the base is common."""
        own = self.scope.pick(personal, "personal")
        return {**state.tensors, **own} if own else {}


def newest(state: State) -> dict[str, tuple[Tensor, Tensor]]:
    """The last round's changes by place (`<group>/<layer>.`) of the shared pairs, as (B, A)."""
    changes = {}
    for place in [n.removesuffix("lora_A") for n in state.shared if n.endswith("lora_A")]:
        name = place.rstrip(".")
        if width := state.values.get("widths", {}).get(name, [0])[-1]:
            A, B = state.tensors[f"{name}.merged_A"], state.tensors[f"{name}.merged_B"]
            changes[place] = B[:, B.shape[1] - width :], A[A.shape[0] - width :]
    return changes
