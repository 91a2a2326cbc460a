"""Keeps Hugging Face transformers from printing while it loads and saves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
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
