"""The Tabletop world: numbered scenes, and samples of them of every kind."""

from typing import Any

import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream, stream_seed
from fedloom.data.sample import Sample
from fedloom.data.tabletop import language
from fedloom.data.tabletop.render import render_depth, render_image, render_imu, render_thermal
from fedloom.data.tabletop.scene import Scene, draw_scene, pairs_of
from fedloom.data.tabletop.speech import PRIVATE_VOICES, PUBLIC_VOICES, VOICES, speak
from fedloom.data.tabletop.styles import PRIVATE_STYLES, PUBLIC_STYLES, style_of

KINDS = (
    "image",
    "audio",
    "image+audio",
    "text",
    "caption",
    "transcript",
    "depth",
    "thermal",
    "imu",
    "entailment",
)
"""Kinds of samples; see Tabletop.sample."""

SHOWN = ("image", "image+audio", "caption")
SPOKEN = ("audio", "image+audio", "transcript")
ASKING = ("image", "text", *SPOKEN)


class Tabletop:
    """An infinite sequence of scenes: `index` is any integer, and equal arguments give equal bytes.

    Public scenes show PUBLIC_PAIRS, in PUBLIC_STYLES, with PUBLIC_VOICES; private scenes show all pairs, in
    PRIVATE_STYLES, with PRIVATE_VOICES, unless a style or a voice is given by name.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scene(self, split: str, index: int) -> Scene:
        """Scene number `index` of the split "public" or "private"."""
        return draw_scene(numpy_stream(self.seed, "tabletop", split, index, "scene"), pairs_of(split))

    def sample(
        self,
        split: str,
        index: int,
        kind: str,
        style: str | None = None,
        voice: str | None = None,
        question: str | None = None,
    ) -> Sample:
        """One sample of scene `index`. `question` is a question kind (QUESTION_KINDS); None draws one, as for
        `style` and `voice`, out of the split's own. A scene has the same question and photo in every kind.

        * "image": the photo and a written question;
        * "audio": a spoken question; the scene is described in words;
        * "image+audio": the photo and a spoken question;
        * "text": scene and question in words;
        * "caption": the photo, to be described;
        * "transcript": a spoken question, to be written down;
        * "depth", "thermal", "imu": one sensor, to be described as far as it can tell;
        * "entailment": two sentences, to be judged "entailment", "contradiction" or "neutral".

        meta: split, index, kind, style, voice, question_kind, spoken (the spoken words), each None if it does not
        apply; novel (whether the scene shows a held-out pair) and scene (its attributes). A style or voice
        that the kind does not use is ignored.

        Raises ExperimentError for an unknown split, kind, style, voice or question kind, and for a question
        with a kind that takes none.
        """
        if kind not in KINDS:
            raise ExperimentError(f"unknown Tabletop kind {kind!r}; choose one of {', '.join(KINDS)}")
        if style is not None:
            style_of(style)
        if voice is not None and voice not in VOICES:
            raise ExperimentError(f"unknown Tabletop voice {voice!r}; choose one of {', '.join(VOICES)}")
        scene = self.scene(split, index)
        public = split == "public"
        styles, voices = (PUBLIC_STYLES, PUBLIC_VOICES) if public else (PRIVATE_STYLES, PRIVATE_VOICES)
        where = ("tabletop", split, index)
        seed = stream_seed(self.seed, *where, "render")
        modalities, spoken = {}, None
        written, answer, question_kind = self._words(scene, split, index, kind, question)
        if kind in SHOWN:
            style = style or self._draw(where, "style", styles)
            modalities["image"] = render_image(scene, style, seed)
        else:
            style = None
        if kind in SPOKEN:
            voice = voice or self._draw(where, "voice", voices)
            spoken = " ".join(language.words(written))
            modalities["audio"] = torch.from_numpy(speak(spoken, voice, seed))
            written = {
                "audio": f"on the table is {language.caption(scene)}. {language.ANSWER_SPOKEN}",
                "image+audio": language.ANSWER_SPOKEN,
                "transcript": language.WHAT_WAS_SAID,
            }[kind]
            answer = spoken if kind == "transcript" else answer
        else:
            voice = None
        if kind == "depth":
            modalities["depth"] = render_depth(scene, seed)
        elif kind == "thermal":
            modalities["thermal"] = render_thermal(scene, seed)
        elif kind == "imu":
            modalities["imu"] = render_imu(scene, seed)
        meta: dict[str, Any] = {
            "split": split,
            "index": index,
            "kind": kind,
            "style": style,
            "voice": voice,
            "question_kind": question_kind,
            "spoken": spoken,
            "novel": scene.novel,
            "scene": scene.attributes(),
        }
        how = [part for part in (style, voice, question_kind) if part]
        uid = "/".join(["tabletop", str(self.seed), split, str(index), kind, *how])
        return Sample(uid, modalities, written, answer, meta)

    def _draw(self, where: tuple[str, str, int], name: str, choices: tuple[str, ...]) -> str:
        return choices[int(numpy_stream(self.seed, *where, name).integers(len(choices)))]

    def _words(
        self, scene: Scene, split: str, index: int, kind: str, question: str | None
    ) -> tuple[str, str, str | None]:
        """(written question, answer, question kind or None)."""
        if kind in ASKING:
            where = ("tabletop", split, index)
            question_kind = question or self._draw(where, "question", language.QUESTION_KINDS)
            rng = numpy_stream(self.seed, *where, "ask", question_kind)
            written, answer = language.ask(scene, question_kind, rng, pairs_of(split))
            if kind == "text":
                written = f"on the table is {language.caption(scene)}. {written}"
            return written, answer, question_kind
        if question is not None:
            raise ExperimentError(
                f"Tabletop kind {kind!r} takes no question, but got {question!r}; leave it out"
            )
        if kind == "entailment":
            rng = numpy_stream(self.seed, "tabletop", split, index, "entailment")
            premise, hypothesis, label = language.entailment(scene, rng, pairs_of(split))
            return f"{premise}. {hypothesis}. {language.FOLLOWS}", label, None
        return {
            "caption": (language.DESCRIBE, language.caption(scene), None),
            "depth": (language.ASK_DEPTH, language.depth_caption(scene), None),
            "thermal": (language.ASK_THERMAL, language.thermal_caption(scene), None),
            "imu": (language.ASK_IMU, language.imu_caption(scene), None),
        }[kind]
