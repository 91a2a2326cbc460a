"""Federated averaging beside pfl-research's simulator, on the shipped tiny MLLM.

`python -m benchmarks pfl_research [clients] [batch] [kind] [repetitions]` (20 2 stage2 3 if none are given).
Needs the extra `bench`.

The rival is pfl's `FederatedAveraging` over its `SimulatedBackend` in this process: one PEFT-wrapped model, a fresh AdamW per
client, the same batches in the same order, a central SGD step of length 1. pfl trains one fixed set of tensors, so only the kinds
`text` and `stage2` of `benchmarks.cohort`, the LLM's adapter alone, are compared. Rounds alternate; the first is not
counted (pfl evaluates in it); ours are whole rounds with the firewall and the diagnostics.
"""

import importlib.util
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cohort import STEPS, Ours, experiment
from benchmarks.plain import Plain, difference
from benchmarks.report import Row, tell
from fedloom.models.training.settings import batches


class Module(nn.Module):
    """The module for pfl: the MLLM on examples given by index."""

    def __init__(self, plain: Plain, examples: list[Any]) -> None:
        super().__init__()
        self.mllm, self.examples = plain.mllm, examples

    def loss(self, indices: Tensor) -> Tensor:
        loss: Tensor = self.mllm([self.examples[i] for i in indices.tolist()]).loss
        return loss

    def metrics(self, indices: Tensor) -> dict[str, Any]:
        from pfl.metrics import Weighted

        return {"examples": Weighted(len(indices), 1)}


def simulator(ours: Ours, plain: Plain, batch: int) -> Any:
    """A function of the round's number that runs it in pfl; the result is in `plain`."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class OneRound(TrainingProcessCallback):
        def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Metrics]:
            return True, Metrics()

    chosen, model = plain.training, ours.federation.engine.model
    parts = {n: c.examples(model) for n, c in sorted(ours.federation.clients.items())}
    examples = [e for part in parts.values() for e in part]
    first = dict(zip(parts, range(0, len(examples), STEPS * batch), strict=True))
    at = {"round": 0}

    def dataset(client: str) -> PyTorchTensorDataset:
        order = [i for b in batches(STEPS * batch, chosen, plain.seed, client, at["round"]) for i in b]
        return PyTorchTensorDataset((torch.tensor(order) + first[client],), user_id=client)

    plain.mllm.requires_grad_(False)
    parameters = plain.parameters["llm"]
    for parameter in parameters:
        parameter.requires_grad_(True)
    trained = PyTorchModel(
        Module(plain, examples),
        lambda _, lr: torch.optim.AdamW(
            parameters, lr=lr, betas=chosen.betas, weight_decay=chosen.weight_decay
        ),
        torch.optim.SGD(parameters, lr=1.0),
    )
    users = FederatedDataset(dataset, get_user_sampler("minimize_reuse", list(parts)))
    backend, algorithm = SimulatedBackend(training_data=users, val_data=users), FederatedAveraging()
    size = NNAlgorithmParams(
        central_num_iterations=plain.rounds + 1,
        evaluation_frequency=plain.rounds + 1,
        train_cohort_size=len(parts),
        val_cohort_size=0,
    )

    def run(number: int) -> None:
        at["round"] = number
        local = NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=chosen.rate(number, plain.rounds),
            local_batch_size=batch,
            local_max_grad_norm=chosen.clip,
        )
        # A further call continues at pfl's next iteration.
        algorithm.run(size, backend, trained, local, callbacks=[OneRound()], send_metrics_to_platform=False)

    return run


def measure(clients: int, batch: int, kind: str = "stage2", repetitions: int = 3) -> list[Row]:
    """The one row."""
    what = f"whole round: {kind}, {clients} clients x batch {batch}, {STEPS} steps each"
    fields: dict[str, Any] = {
        "name": "pfl",
        "what": what,
        "rival": "pfl-research's simulator",
        "target": "none set",
    }
    if importlib.util.find_spec("pfl") is None:
        return [Row(**fields, note="pfl is not installed; pip install 'fedloom[bench]'")]
    chosen = experiment(kind, clients, batch, repetitions + 2)
    ours = Ours(chosen)
    plain = Plain(chosen, [] if kind == "text" else ["image"])
    run = simulator(ours, plain, batch)
    seconds, gaps = [], []

    def rival(number: int) -> None:
        began = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - began)
        gaps.append(difference(ours.federation.state.shared, plain.read()))

    ours.between = rival
    ours.run()
    note = f"difference after one round {gaps[0]:.1e}, after {len(gaps)} rounds {gaps[-1]:.1e}"
    return [Row(**fields, ours=ours.whole[1:], of_rival=seconds[1:], difference=gaps[0], note=note)]


def main(arguments: list[str]) -> list[Row]:
    clients, batch, kind, repetitions = arguments if len(arguments) == 4 else ("20", "2", "stage2", "3")
    rows = measure(int(clients), int(batch), kind, int(repetitions))
    tell(rows)
    return rows
