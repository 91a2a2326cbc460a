"""All cases of `benchmarks.gpu` on one device, each in a process of its own: one JSON file and one Markdown table.

`python -m benchmarks gpu_proof [--size full|tiny] [--out FOLDER] [--clients 10] [--repetitions 2] [--minutes 8] [--device NAME]`

Cases: Vicuna-7B + ImageBind-huge and Qwen2.5-VL-3B, each with frozen weights in bfloat16 and in 4 bits. FOLDER/gpu.json and
FOLDER/gpu.md are written anew after each case, so that a run that is cut short leaves what it has. A case that fails, or for
which the minutes do not suffice, is listed with its reason.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import surroundings

CASES = tuple((model, bits) for bits in ("none", "4bit") for model in ("vicuna-imagebind", "qwen2.5-vl-3b"))
GIB = 2**30


def run_case(model: str, bits: str, words: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """The figures of one case, or its name and `error`."""
    named = {"model": model, "quantize": bits}
    if seconds < 1:
        return named | {"error": "no time left"}
    file = folder / "case.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks", "gpu", "--model", model, "--quantize", bits]
    command += ["--dtype", "bfloat16", "--json", str(file), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return named | {"error": f"cut off after {seconds:.0f} s"}
    if done.returncode or not file.exists():
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        return named | {"error": lines[-1] if lines else f"exit code {done.returncode}"}
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return figures


def table(cases: list[dict[str, Any]]) -> str:
    """One line per case."""
    lines = [
        "| model | frozen weights | clients | s a client's step | rival | ratio | of the matrix rate | rival | peak GiB | rival |"
        " results differ by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        weights = case.get("dtype", "") if case["quantize"] == "none" else case["quantize"]
        start = f"| {case['model']} {case.get('size', '')} | {weights} |"
        if "error" in case:
            lines.append(f"{start} not measured: {case['error']} | | | | | | | | |")
            continue
        lines.append(
            f"{start} {case['clients']} | {case['step']:.4f} | {case['rival_step']:.4f} | "
            f"{case['rival_step'] / case['step']:.2f} | {case['share']:.0%} | {case['rival_share']:.0%} | "
            f"{case['peak'] / GIB:.2f} | {case['rival_peak'] / GIB:.2f} | {case['difference']:.1e} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_proof")
    parser.add_argument(
        "--size", choices=("full", "tiny"), default="full" if torch.cuda.is_available() else "tiny"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    words = ["--size", chosen.size, "--device", chosen.device]
    words += ["--clients", str(chosen.clients), "--repetitions", str(chosen.repetitions)]
    ends = time.monotonic() + 60 * chosen.minutes
    cases: list[dict[str, Any]] = []
    for model, bits in CASES:
        began = time.monotonic()
        cases.append(run_case(model, bits, words, chosen.out, ends - began))
        cases[-1]["wall"] = time.monotonic() - began
        facts = {"surroundings": surroundings(), "cases": cases}
        (chosen.out / "gpu.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (chosen.out / "gpu.md").write_text(f"{table(cases)}\n\n{surroundings()}\n", encoding="utf-8")
        print(f"{model}, {bits}: {cases[-1].get('error', 'measured')}, {cases[-1]['wall']:.0f} s", flush=True)
    print(f"\n{table(cases)}\n\n{surroundings()}")
