"""Silence for Hugging Face transformers while it loads and saves."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NOISY = ("torchao", "bitsandbytes", "diffusers.quantizers", "torch.utils._pytree")
"""Libraries that write about kernels of other devices, and about other versions."""


def quiet_process() -> None:
    """Switch off telemetry, and warnings of libraries that a user cannot act on, in a command-line process."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def quiet_hf() -> Iterator[None]:
    """Switch off transformers' progress bars and load reports inside; its settings are restored afterwards."""
    from transformers.utils import logging as hf

    bar, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()
    hf.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if bar:
            hf.enable_progress_bar()
