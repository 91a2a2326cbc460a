"""Federated averaging beside NVFlare's simulator, on the shipped tiny MLLM.

`python -m benchmarks nvflare_simulator [clients] [batch] [kind] [repetitions]` (10 2 stage2 3 if none are given).
Needs the extra `bench`.

The rival is NVFlare's FedAvg recipe in its simulation environment, one warm process per client, whose script (`nvflare_client`)
holds one PEFT-wrapped model, trains it as `benchmarks.plain` does, and sends one vector. Only the kinds `text` and `stage2` of
`benchmarks.cohort` are compared: all clients train the same tensors. The simulator cannot be stepped: our rounds run first, then
its own. A round is the time between arrivals of a global model at the first client; the first is not counted.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cohort import STEPS, Ours, experiment
from benchmarks.plain import Plain, difference, flat, unflat
from benchmarks.report import ROOT, Row, tell


def simulate(folder: Path, clients: int, rounds: int) -> None:
    """Run NVFlare; its first client writes the global model before each round, and its time of arrival, into the folder."""
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe.sim_env import SimEnv

    recipe = NumpyFedAvgRecipe(
        name="round",
        model=np.load(folder / "start.npy"),
        min_clients=clients,
        num_rounds=rounds,
        train_script=str(ROOT / "benchmarks" / "nvflare_client.py"),
        train_args=f"--experiment {folder / 'experiment.json'} --folder {folder}",
    )
    recipe.execute(SimEnv(num_clients=clients, num_threads=clients, workspace_root=str(folder / "work")))


def measure(clients: int, batch: int, kind: str = "stage2", repetitions: int = 3) -> list[Row]:
    """The one row. Raises RuntimeError if the simulation fails."""
    what = f"whole round: {kind}, {clients} clients x batch {batch}, {STEPS} steps each"
    fields: dict[str, Any] = {
        "name": "nvflare",
        "what": what,
        "rival": "NVFlare's simulator",
        "target": "none set",
    }
    if importlib.util.find_spec("nvflare") is None:
        return [Row(**fields, note="nvflare is not installed; pip install 'fedloom[bench]'")]
    chosen = experiment(kind, clients, batch, repetitions + 2)
    ours, states = Ours(chosen), []
    ours.between = lambda number: states.append(ours.federation.state.shared)
    ours.run()
    plain = Plain(chosen, [] if kind == "text" else ["image"])
    start = plain.read()
    like = plain.read(["llm"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "start.npy", flat(like).numpy())
        (folder / "experiment.json").write_text(json.dumps(chosen.as_dict()))
        paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "benchmarks", "nvflare_simulator", "--child", name]
        began = time.time()
        done = subprocess.run(
            [*command, str(clients), str(chosen.rounds)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        if not (folder / f"{chosen.rounds}.time").exists():
            raise RuntimeError(f"the NVFlare simulation failed: {(done.stdout + done.stderr)[-2000:]}")
        at = [float((folder / f"{n}.time").read_text()) for n in range(1, chosen.rounds + 1)]
        seconds = [b - a for a, b in pairwise(at)]
        vectors = [torch.from_numpy(np.load(folder / f"{n}.npy")) for n in range(2, chosen.rounds + 1)]
    gaps = [difference(s, {**start, **unflat(v, like)}) for s, v in zip(states, vectors, strict=True)]
    note = (
        f"NVFlare's first task came {at[0] - began:.1f} s after its start; "
        f"difference after one round {gaps[0]:.1e}, after {len(gaps)} rounds {gaps[-1]:.1e}"
    )
    return [Row(**fields, ours=ours.whole[1:], of_rival=seconds[1:], difference=gaps[0], note=note)]


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        simulate(Path(arguments[1]), int(arguments[2]), int(arguments[3]))
        return []
    clients, batch, kind, repetitions = arguments if len(arguments) == 4 else ("10", "2", "stage2", "3")
    rows = measure(int(clients), int(batch), kind, int(repetitions))
    tell(rows)
    return rows
