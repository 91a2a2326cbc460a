"""Questions to a run's model: what its task reads, and its clients held, is checked and answered."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS, Media, MediaSettings, check_media
from fedloom.data.media.check import Held
from fedloom.data.media.sample_files import MediaFiles
from fedloom.experiment.settings import Experiment
from fedloom.models.base import Trainable
from fedloom.tasks.base import Question, Task

MOST_NEW_TOKENS = 32
"""Length limit of a generated answer where none is given."""


@dataclass(frozen=True)
class RunAsker:
    """Answers questions by a run's model; `held` gives its clients' modalities. Faults name the options of `fedloom ask`."""

    task: Task[Any]
    model: Trainable
    held: Callable[[], Collection[str]]
    media: MediaSettings

    def __call__(self, asked: Sequence[Mapping[str, Any]]) -> list[str]:
        """The answers to these questions, each by part: `text`, `pair`, `max_new_tokens`, and media as files or content.

        Raises ExperimentError.
        """
        return self.task.answers(self.model, [self._question(one) for one in asked])

    def _question(self, asked: Mapping[str, Any]) -> Question:
        for part in asked:
            if part not in self.task.inputs:
                raise ExperimentError(
                    f"the run trained {self.task.title}, which reads {', '.join(map(option, self.task.inputs))}; "
                    f"leave {option(part)} out"
                )
        inputs = self._media({m: source for m, source in asked.items() if m in KINDS})
        if inputs and (unseen := sorted(set(inputs) - set(self.held()))):
            raise ExperimentError(
                f"no client of the run held data of the kind {unseen[0]}, so that its model was not trained on it; "
                f"leave --{unseen[0]} out"
            )
        limit = asked.get("max_new_tokens", MOST_NEW_TOKENS)
        return Question(inputs, asked.get("text"), asked.get("pair"), limit)

    def _media(self, sources: Mapping[str, Path | bytes]) -> Mapping[str, Any]:
        """The files, checked and decoded as the run's files were."""
        media = {}
        for modality, source in sources.items():
            if isinstance(source, Path) and not source.is_file():
                raise ExperimentError(f"--{modality}: there is no file {source}")
            one = Media(modality, Held(source) if isinstance(source, bytes) else source, self.media)
            try:
                check_media(modality, source, self.media)
            except Exception as error:  # decoders raise anything; the user needs the file and the reason
                raise _fault(one, error) from error
            media[modality] = one
        return MediaFiles(media, _fault)


def _fault(media: Media, says: object) -> ExperimentError:
    name = f"{media.source} " if isinstance(media.source, Path) else "it "
    return ExperimentError(f"--{media.modality}: {name}cannot be read: {says}")


def option(part: str) -> str:
    """The option of `fedloom ask` for a part of a question."""
    return "--" + ("question" if part == "text" else part.replace("_", "-"))


def askable(model: Trainable, experiment: Experiment, held: Callable[[], Collection[str]]) -> Trainable:
    """The model, connected with the task of its run, so that `ask` answers."""
    media = getattr(experiment.data, "media", MediaSettings())
    model.asker = RunAsker(experiment.task, model, held, media)
    return model
