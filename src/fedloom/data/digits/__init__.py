"""Digits: printed in many fonts (public) and handwritten (private), with descriptions in words and as sound."""

from fedloom.data.digits.describe import WORDINGS, describe
from fedloom.data.digits.facts import facts
from fedloom.data.digits.names import DIGITS, mask_names
from fedloom.data.digits.pictures import handwriting, printed, tabletop_objects
from fedloom.data.digits.sound import sonify

__all__ = [
    "DIGITS",
    "WORDINGS",
    "describe",
    "facts",
    "handwriting",
    "mask_names",
    "printed",
    "sonify",
    "tabletop_objects",
]
