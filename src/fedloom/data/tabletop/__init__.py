"""The Tabletop world: procedural scenes as images, sensor data, speech and text; equal seeds give equal bytes."""

from fedloom.data.tabletop.language import QUESTION_KINDS, SPOKEN_WORDS, VOCABULARY
from fedloom.data.tabletop.render import render_depth, render_image, render_imu, render_thermal, render_thing
from fedloom.data.tabletop.scene import (
    COLOURS,
    NOVEL_PAIRS,
    PAIRS,
    PUBLIC_PAIRS,
    SHAPES,
    TEXTURES,
    Scene,
    Thing,
)
from fedloom.data.tabletop.speech import PRIVATE_VOICES, PUBLIC_VOICES, speak
from fedloom.data.tabletop.styles import PRIVATE_STYLES, PUBLIC_STYLES
from fedloom.data.tabletop.world import KINDS, Tabletop

__all__ = [
    "COLOURS",
    "KINDS",
    "NOVEL_PAIRS",
    "PAIRS",
    "PRIVATE_STYLES",
    "PRIVATE_VOICES",
    "PUBLIC_PAIRS",
    "PUBLIC_STYLES",
    "PUBLIC_VOICES",
    "QUESTION_KINDS",
    "SHAPES",
    "SPOKEN_WORDS",
    "TEXTURES",
    "VOCABULARY",
    "Scene",
    "Tabletop",
    "Thing",
    "render_depth",
    "render_image",
    "render_imu",
    "render_thermal",
    "render_thing",
    "speak",
]
