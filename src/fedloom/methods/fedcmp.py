"""Fed-CMP, a reconstruction from the abstract: canonical reliability-aware aggregation and orthogonality-preserved momentum.

Paper: "Fed-MA / Fed-CMP", arXiv 2603.26786, 2026. Its method section is not public and no code is known to us: equations C1-C7,
defaults and switches are ours (docs/methods/fedma.md). This is no reproduction, and nothing here is compared with its numbers.

CRA: clients' projectors are one shared alignment basis and a client's own coefficients; coefficients are fused direction by
direction with reliability weights (C1-C5). OPM: the basis keeps a momentum under an orthogonal projection (C6). beta = 0 is CRA
alone, gamma = 0 OPM alone, both 0 is FedAvg. Applies to the projector's Linear layers, each by itself with its bias as last
column; every other tensor is averaged. The p_k are uniform by default, as in the methods it is compared with; `weights: examples`
makes them n_k / n. The server sees every client's tensors: it cannot be combined with secure summation.

Deliberate differences: the two-sided reading with r x r cores and `carry_chunk` are not built; above 1,024 rows the basis may
come from subspace iteration in float32 (`aggregation.canonical`).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedloom.aggregation import canonical
from fedloom.aggregation.reliability import Statistic
from fedloom.core.payload import Payload, Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import torch_stream
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.linear_layers import Layer, layers
from fedloom.methods.base.measure import Measure
from fedloom.methods.base.method import Ask, Combination, Method, State

BASIS, VELOCITY = ".basis", ".velocity"
BINS = 16
"""Groups of directions in the figures, from the strongest to the weakest."""


class FedCMP(Method):
    """W' = B' (sum rho_k o C_k) + lambda (I - B' B'^T) sum p_k W_k."""

    name: ClassVar[str] = "fedcmp"
    title: ClassVar[str] = "Fed-CMP (reconstruction)"
    paper: ClassVar[str] = "our reconstruction from the abstract of arXiv 2603.26786"
    linear: ClassVar[bool] = False
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "individual"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("rank", "rank of the basis", "count"),
        Measure("energy", "energy held by the basis", "percent"),
        Measure("effective_clients", "effective clients"),
    )

    beta: float = Field(0.2, ge=0, lt=1, description="momentum of the basis (OPM); 0 = CRA alone")
    gamma: float = Field(1.0, ge=0, description="strength of the reliability weights (CRA); 0 = OPM alone")
    floor: float = Field(1e-3, ge=0, description="part of the mean variance that is added to every variance")
    kappa: Annotated[float, ReadWith(".reliability", ("cosine",))] = Field(
        2.0, ge=0, description="reliability cosine: its strength"
    )
    residual: float = Field(1.0, ge=0, description="lambda, share of what the basis does not span")
    eta: Annotated[float, ReadWith(".rank", (None,))] = Field(
        0.99, gt=0, le=1, description="share of the energy that the basis is to hold at first"
    )
    rank: int | None = Field(None, ge=1, description="r of every layer; none = from eta and largest")
    largest: Annotated[int | None, ReadWith(".rank", (None,))] = Field(
        None, ge=1, description="largest r; none = min(m - 1, n)"
    )
    space: canonical.Space = Field(
        "weight", description="weight: the basis is that of the layers; update: that of their changes"
    )
    momentum: Annotated[canonical.Momentum, ReadWith(".beta")] = Field(
        "blend", description="blend of old and new basis, or heavyball: a buffer of its own"
    )
    form: canonical.Form = Field(
        "attach", description="attach fused coefficients to the moved basis, or reproject them on it first"
    )
    reliability: Statistic = Field("variance", description="variance | cosine | energy (an ablation)")
    side: canonical.Side = Field("output", description="the basis spans the layers' outputs, or inputs")
    momentum_start: Annotated[int, ReadWith(".beta")] = Field(
        1, ge=1, description="rounds that a layer is aggregated before momentum begins"
    )
    bias: Literal["joined", "fedavg"] = Field("joined", description="joined as last column, or averaged")

    def round(self, state: State, ask: Ask) -> State:
        """One round: every Linear layer of the projector through C1-C7, the rest by its mean."""
        replies = ask("train", Payload(state.shared))
        weights = self.client_weights(replies)
        shared, buffers, values = {}, dict(state.tensors), dict(state.values)
        for layer in layers(replies, weights, bias=self.bias == "joined"):
            fused = self._fuse(layer, state)
            W, b = canonical.part(fused.W, layer.bias is not None)
            shared[layer.weight] = W
            if layer.bias is not None and b is not None:
                shared[layer.bias] = b
            buffers[layer.weight + BASIS] = fused.B
            if fused.N is not None:
                buffers[layer.weight + VELOCITY] = fused.N
            values[layer.weight] = {
                "rounds": state.values.get(layer.weight, {}).get("rounds", 0) + 1,
                "figures": figures(fused, layer),
            }
        rest = mean_of(replies, weights, lambda name: name not in shared)
        return State({**state.shared, **rest, **shared}, buffers, values)

    def _fuse(self, layer: Layer, state: State) -> canonical.Fused:
        rounds = state.values.get(layer.weight, {}).get("rounds", 0)
        rules = canonical.Rules(
            beta=self.beta if rounds >= self.momentum_start else 0.0,
            gamma=self.gamma,
            floor=self.floor,
            kappa=self.kappa,
            residual=self.residual,
            space=self.space,
            momentum=self.momentum,
            form=self.form,
            statistic=self.reliability,
            side=self.side,
        )
        current = layer.of(state.shared)
        m = current.shape[1 if self.side == "input" else 0]
        return canonical.fuse(
            layer,
            current,
            layer.weights,
            rules,
            previous=state.tensors.get(layer.weight + BASIS),
            velocity=state.tensors.get(layer.weight + VELOCITY),
            rank=None if self.rank is None else min(self.rank, m - 1),
            eta=self.eta,
            largest=None if self.largest is None else min(self.largest, m - 1),
            draw=torch_stream(0, "fedcmp", layer.weight, rounds),
        )

    def measured(self, state: State) -> dict[str, float]:
        """Figures of the last round: rank, energy, effective clients, and reliability per client and group of directions."""
        return {
            name: value
            for place, record in state.values.items()
            if isinstance(record, dict) and "figures" in record
            for name, value in record["figures"].items()
        }


def figures(fused: canonical.Fused, layer: Layer) -> dict[str, float]:
    """Measures of a layer's fusion.

    `canonical/<layer>/rank`, `energy` (share held by the basis) and `effective_clients` (mean over directions);
    `reliability/<layer>/<client>/<group>`: rho over p in a group of directions, 1 where a client counts by its weight.
    """
    measures = {
        f"canonical/{layer.weight}/rank": float(fused.B.shape[1]),
        f"canonical/{layer.weight}/energy": fused.energy,
        f"canonical/{layer.weight}/effective_clients": float((1 / fused.rho.square().sum(0)).mean()),
    }
    over = fused.rho / layer.weights.to(fused.rho)[:, None]
    for client, row in zip(layer.clients, over, strict=True):
        for i, group in enumerate(row.tensor_split(min(BINS, len(row)))):
            measures[f"reliability/{layer.weight}/{client}/{i:02d}"] = round(float(group.mean()), 6)
    return measures
