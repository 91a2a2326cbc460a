"""The first import of the loaders' server: no notes of libraries that a user cannot act on from it and its loaders."""

from fedloom.core.hf_logging import quiet_process

quiet_process()
