"""Peak memory of loading a language model, against the size of its weights.

`python -m benchmarks loading [MB | FOLDER]` (600 MB if none) takes the causal LM in a folder, or writes a random bfloat16
Llama in several shards, and loads it, every way in a process of its own, less what the same process needs for a Llama of a few
KB. `peak` counts all resident pages; `own` those that are no pages of a file, which the system can take back at any time: the
least memory that a load needs. A pass over the first 256 tokens of this project's licence follows, which reads every weight:
resident memory after it, its mean loss, and the seconds of a second one.

The rival is the float32 detour: the model is read in float32, then cast.
"""

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.child import child

if TYPE_CHECKING:
    from fedloom.models.precision import Precision
    from fedloom.models.quantize import Bits

WAYS: "dict[str, tuple[Precision | None, Bits | None]]" = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "auto": ("auto", None),
    "auto, 8bit": ("auto", "8bit"),
    "auto, 4bit": ("auto", "4bit"),
    "float32 detour to bfloat16": (None, None),
}


def write(folder: Path, megabytes: float) -> float:
    """Save a random Llama of about this size; returns its MB."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from fedloom.models.mllm.load import foundation_folder

    tokenizer = AutoTokenizer.from_pretrained(foundation_folder("tiny-mllm") / "llm")
    width = 64 if megabytes < 10 else 1024
    layers = max(1, round(megabytes * 1e6 / (2 * 16 * width * width)))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="100MB")
    tokenizer.save_pretrained(folder)
    size: int = sum(p.numel() * p.element_size() for p in model.parameters())
    return size / 1e6


def pages() -> dict[str, float]:
    """MB of resident pages, and of those that belong to no file."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    fields = {line[0].rstrip(":"): line[1] for line in lines if len(line) > 1}
    return {"peak": int(fields["VmRSS"]) / 1e3, "own": int(fields["RssAnon"]) / 1e3}


def measure(folder: Path, way: str) -> dict[str, float]:
    """Peaks while the model is loaded, and after a forward pass."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fedloom.models.mllm.llm import load_llm
    from fedloom.models.settings import Foundation
    from fedloom.models.weights import Weights

    precision, quantize = WAYS[way]
    peaks, done = pages(), threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            now = pages()
            peaks.update({name: max(peaks[name], value) for name, value in now.items()})

    watcher = threading.Thread(target=watch)
    watcher.start()
    if precision is None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(torch.bfloat16)
    else:
        settings = Foundation(quantize=quantize)
        model, _ = load_llm(folder, Weights.of(settings, "cpu", precision))
    loaded = dict(peaks)
    text = Path(__file__).parents[1].joinpath("LICENSE").read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"][:, :256]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        loss = float(model(input_ids=ids, labels=ids).loss)
        after, start = pages()["peak"], time.perf_counter()
        model(input_ids=ids)
    done.set()
    watcher.join()
    return {**loaded, "forward": after, "loss": loss, "seconds": time.perf_counter() - start}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(Path(arguments[1]), arguments[2])))
        return
    with tempfile.TemporaryDirectory() as root:
        small, large = Path(root, "small"), Path(root, "large")
        write(small, 0.1)
        if arguments and Path(arguments[0]).is_dir():
            large = Path(arguments[0])
        else:
            write(large, float(arguments[0]) if arguments else 600)
        shards = list(large.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in shards) / 1e6
        print(f"{size:.0f} MB in {len(shards)} files\n")
        print(f"{'':28}{'peak':>8}{'own':>8}{'after a pass':>14}   peak over size    loss   s a pass")
        for way in WAYS:
            base, loaded = (child("loading", folder, way) for folder in (small, large))
            more = {name: loaded[name] - base[name] for name in ("peak", "own", "forward")}
            print(
                f"{way:28}{more['peak']:>5.0f} MB{more['own']:>5.0f} MB{more['forward']:>11.0f} MB"
                f"{more['peak'] / size:>17.2f}{loaded['loss']:>8.3f}{loaded['seconds']:>11.2f}"
            )
