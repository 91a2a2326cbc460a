"""Loader processes that preprocess samples."""

import multiprocessing
import os
import sys
import weakref
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace

from fedloom.core.new_process import without_main
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample
from fedloom.models.loading import loader_process
from fedloom.models.loading.reading import Reading

PRELOADED = (
    "fedloom.models.loading.quiet_server",
    *("fedloom.models.loading.loader_process", "fedloom.models.encoders.readers", "PIL.Image", "soundfile"),
    *("transformers.image_processing_backends", "transformers.processing_utils"),
)
"""Modules that the server of new loaders imports once for all of them."""
_HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods()


def start_server() -> None:
    """Start the server of new loaders, once a process, without waiting: it imports what they need while this process goes on."""
    if _HAS_SERVER:
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload(list(PRELOADED))
        with suppress(OSError):  # the start of the first loader says why
            forkserver.ensure_running()


class LoaderPool:
    """`count` processes, started when the first sample is sent; none of them is forked from this process and its threads."""

    def __init__(self, count: int, reading: Reading) -> None:
        self.count = count
        self.ready = False
        """Whether a loader has answered; until then, samples are read in this process. The first start waits for the server."""
        self.lost = False
        """Whether the processes could not be started, or died; samples are then read in this process."""
        start_server()
        context = multiprocessing.get_context("forkserver" if _HAS_SERVER else "spawn")
        self._pool = ProcessPoolExecutor(count, context, loader_process.start, (reading,))
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def send(self, sample: Sample) -> "Future[bytes | None] | None":
        """The bytes of the sample's preprocessed inputs, in the future; None for one that cannot be sent."""
        files = sample.modalities
        if self.lost or not isinstance(files, MediaFiles):
            return None
        try:
            light = replace(sample, modalities=files.portable(), meta={})
            with without_main():
                sent = self._pool.submit(loader_process.read, light)
            sent.add_done_callback(self._answered)
            return sent
        except (BrokenProcessPool, OSError) as error:
            self._lose(error)
        except Exception:  # a file inside another one that cannot be read: reading it here says why
            return None
        return None

    def result(self, sent: "Future[bytes | None]") -> bytes | None:
        """The bytes; None where the sample must be read in this process."""
        if not self.ready and not sent.done():
            sent.cancel()
            return None
        try:
            return sent.result()
        except (BrokenProcessPool, OSError) as error:
            self._lose(error)
        except Exception:  # what cannot be sent
            return None
        return None

    def _lose(self, error: Exception) -> None:
        """Do without the processes, which cannot start, or were killed, for lack of memory perhaps; say so once."""
        if not self.lost:
            said = f"samples are read without loader processes from here on ({error}); fewer engine.loaders need less memory"
            print(said, file=sys.stderr, flush=True)
        self.lost = True

    def _answered(self, sent: "Future[bytes | None]") -> None:
        self.ready = self.ready or not (sent.cancelled() or sent.exception())

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """The cores that this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
