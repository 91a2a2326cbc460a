"""Media files: accepted formats, checks before a run, and decoding to raw tensors."""

from fedloom.data.media.check import Finding, Media, check_all, checking, reason
from fedloom.data.media.kinds import KINDS, check_media, decode_media
from fedloom.data.media.settings import DEFAULT, MediaSettings

__all__ = [
    "DEFAULT",
    "KINDS",
    "Finding",
    "Media",
    "MediaSettings",
    "check_all",
    "check_media",
    "checking",
    "decode_media",
    "reason",
]
