"""Run folders as the engine writes them, with small real pictures and sounds."""

import json
from pathlib import Path

import numpy as np
import soundfile
import yaml
from PIL import Image

from fedloom.data.sample import SAMPLE_RATE


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def change(path: Path, **values: object) -> None:
    """Overwrite keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}), encoding="utf-8")


def make_run(
    folder: Path,
    *,
    row: str = "FedAvg-LoRA",
    seed: int = 0,
    image: float = 0.6,
    audio: float = 0.5,
    up: int = 1_500_000,
    seconds: float = 10.0,
    rounds: int = 4,
    refused: dict[str, str] | None = None,
    status: str = "complete",
    question: str = "What colour is the cube?",
    error: float = 0.02,
) -> Path:
    """One run folder whose last round stands at `image` and `audio`, rising evenly from 0.3 and 0.2."""
    folder.mkdir(parents=True)
    end = {"image": image, "audio": audio}
    start = {"image": 0.3, "audio": 0.2}
    experiment = {
        "name": "tabletop-qa",
        "method": {"kind": row, "ridge": 0.01},
        "rounds": rounds,
        "seed": seed,
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    lines, ledger = [], []
    final: dict[str, float] = {}
    for t in range(rounds + 1):
        for kind in ("image", "audio"):
            value = start[kind] + (end[kind] - start[kind]) * t / rounds
            final[f"global/{kind}/token_accuracy"] = value if t < rounds else end[kind]
            final[f"global/{kind}/exact_match"] = final[f"global/{kind}/token_accuracy"] - 0.1
            final[f"worst_client/{kind}/token_accuracy"] = value - 0.05
        if t:
            final |= {"train/loss": 2.0 / t, "train/c0/loss": 2.1 / t, "restoration_error": error / t}
            final |= {"restoration_error/llm": error / t, "restoration_error/encoder.image": error / 2 / t}
            told = (refused or {}) if t == 2 else {}
            clients = ["c0", "c1", "c2"]
            ledger.append(
                {
                    "round": t,
                    "request": "train",
                    "asked": clients,
                    "answered": [c for c in clients if c not in told],
                    "refused": told,
                    "bytes_up": up // rounds,
                    "bytes_down": 2 * up // rounds,
                    "groups_up": {"llm": up // rounds - 1000, "projector": 1000},
                    "groups_down": {"llm": 2 * up // rounds - 1000, "projector": 1000},
                    "seconds": seconds / rounds,
                    "notes": ["one question was cut to 64 tokens"] if t == 1 else [],
                }
            )
        lines += [{"round": t, "name": name, "value": value} for name, value in final.items()]
    for kind in ("image", "audio"):
        for i, condition in enumerate(("zeroed", "shuffled", "removed")):
            name = f"control/{kind}/{condition}/token_accuracy"
            final[name] = 0.25 + 0.01 * i
            lines.append({"round": rounds, "name": name, "value": final[name]})
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "ledger.jsonl", ledger)
    clients = [
        {
            "client": "c0",
            "holds": ["image"],
            "train": 200,
            "test": 50,
            "metrics": {"image/token_accuracy": image},
        },
        {
            "client": "c1",
            "holds": ["audio"],
            "train": 120,
            "test": 30,
            "metrics": {"audio/token_accuracy": audio},
        },
        {
            "client": "c2",
            "holds": ["image", "audio"],
            "train": 90,
            "test": 20,
            "metrics": {"image/token_accuracy": image - 0.1, "audio/token_accuracy": audio - 0.1},
        },
    ]
    started = {name: line["value"] for line in lines if line["round"] == 0 for name in [line["name"]]}
    summary = {
        "name": "tabletop-qa",
        "row": row,
        "method": "fedavg",
        "seed": seed,
        "rounds": rounds,
        "seconds": seconds,
        "status": status,
        "metrics": {**final, "start": started},
        "trainable_parameters": 61_440,
        "shared_parameters": 61_440,
        "bytes_up": up,
        "bytes_down": 2 * up,
        "restoration_error": error / rounds,
        "clients": clients,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    _samples(folder / "samples", question, image)
    return folder


def _samples(folder: Path, question: str, image: float) -> None:
    folder.mkdir()
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[4:16, 6:20] = (200, 40, 30)
    Image.fromarray(pixels).save(folder / "scene.png")
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    soundfile.write(
        folder / "spoken.wav", 0.3 * np.sin(2 * np.pi * 330 * time), SAMPLE_RATE, subtype="PCM_16"
    )
    base = {"client": "c0", "before": "blue", "spoken": None, "image": None, "audio": None, "depth": None}
    after = "Red." if image > 0.5 else "green"
    records = [
        base | {"uid": "s-1", "kind": "image", "question": question, "reference": "red", "after": after}
        | {"image": "scene.png"},
        base | {"uid": "s-2", "kind": "audio", "question": "Answer this.", "reference": "two", "after": "one"}
        | {"audio": "spoken.wav", "spoken": "how many cubes are there", "client": "c1"},
        base | {"uid": "s-3", "kind": "image+audio", "question": "Both?", "reference": "yes", "after": "yes"}
        | {"image": "scene.png", "audio": "spoken.wav", "spoken": "is there a ball", "client": "c2"},
    ]  # fmt: skip
    (folder / "samples.json").write_text(json.dumps(records))


def make_rows(folder: Path, runs: dict[tuple[str, int], dict]) -> Path:
    """A folder of rows: (row, seed) -> arguments of `make_run`."""
    entries = []
    for (row, seed), arguments in runs.items():
        path = f"{row.lower().replace('²', '2').replace(' ', '-')}/seed-{seed}"
        make_run(folder / path, row=row, seed=seed, **arguments)
        entries.append({"row": row, "seed": seed, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder


def make_two_rows(folder: Path) -> Path:
    """Two rows of two seeds; one run of the second row refused a client."""
    broken = {"refused": {"c1": "not finite: tensor llm.q holds NaN"}}
    return make_rows(
        folder,
        {
            ("FedAvg-LoRA", 0): {"image": 0.5, "up": 1_000_000, "seconds": 10.0},
            ("FedAvg-LoRA", 1): {"image": 0.6, "up": 3_000_000, "seconds": 12.0},
            ("FedA²-LoRA", 0): {"image": 0.7, "error": 0.004},
            ("FedA²-LoRA", 1): {
                "image": 0.72,
                "error": 0.002,
                "status": "complete with refusals: 1 of 12 updates",
                **broken,
            },
        },
    )
