"""The training script of one NVFlare client: `--experiment FILE --folder FOLDER`; `benchmarks.nvflare_simulator` starts it."""

import argparse
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare
import torch
from nvflare.app_common.np.constants import NPConstants

from benchmarks.flower import world
from benchmarks.plain import flat, unflat


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiment", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    flare.init()
    plain, clients = world(options.experiment.read_text())
    like = plain.read(["llm"])
    site = int(flare.get_site_name().rsplit("-", 1)[1]) - 1
    name, holds, examples = clients[site]
    while flare.is_running():
        received = flare.receive()
        came, number = time.time(), received.current_round + 1
        vector = np.asarray(received.params[NPConstants.NUMPY_KEY], dtype=np.float32)
        if site == 0:  # the global model before this round, and its time of arrival
            np.save(options.folder / f"{number}.npy", vector)
            (options.folder / f"{number}.time").write_text(str(came))
        trained = plain.train(unflat(torch.from_numpy(vector), like), examples, holds, name, number)
        answer = {NPConstants.NUMPY_KEY: flat(trained).numpy()}
        flare.send(flare.FLModel(params=answer, metrics={"accuracy": 0.0}))


if __name__ == "__main__":
    main()
