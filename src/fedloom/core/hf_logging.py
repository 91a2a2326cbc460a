"""Keeps Hugging Face transformers from printing while it loads and saves."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_process() -> None:
    """For a process of the command line: no telemetry, and no warnings of transformers that a user cannot act on."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def quiet_hf() -> Iterator[None]:
    """No progress bar and no load report of transformers inside; its settings are as before afterwards."""
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
