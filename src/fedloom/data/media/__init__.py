"""Media files: accepted formats, checks before a run, and decoding to raw tensors."""

from fedloom.data.media.check import Checking, Finding, Media, check_all, checking, mode, reason
from fedloom.data.media.kinds import KINDS, check_media, count_windows, decode_media, modality_of_name
from fedloom.data.media.settings import DEFAULT, MediaSettings

__all__ = [
    "DEFAULT",
    "KINDS",
    "Checking",
    "Finding",
    "Media",
    "MediaSettings",
    "check_all",
    "check_media",
    "checking",
    "count_windows",
    "decode_media",
    "modality_of_name",
    "mode",
    "reason",
]
