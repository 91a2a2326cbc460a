"""A prompt as runs of token ids and slots of soft tokens, and its cut to a number of token ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedloom.data.conversation import exchanges, without_oldest
from fedloom.data.sample import Turn


@dataclass(frozen=True)
class Run:
    """Token ids of one origin: the prompt's frame, a user's or system's words, or an answer with its stop."""

    ids: tuple[int, ...]
    origin: Literal["frame", "words", "answer"]


Rendered = list[Run | str]
"""A conversation's runs and slots, the last run an answer; a slot is a string, the keys of its media joined with "+"."""


@dataclass(frozen=True)
class Pieces:
    """One sample's prompt as token ids.

    `prompt` holds runs of token ids and slots; a slot is a string, the key of the medium whose soft tokens stand
    there ("image+audio" where modalities are summed). `answer`, the last one, ends in the stop ids unless it had to be cut.
    `earlier`: places in `prompt` of the earlier answers, which are trained on, too.
    """

    prompt: tuple[tuple[int, ...] | str, ...]
    answer: tuple[int, ...]
    truncated: bool
    earlier: tuple[int, ...] = ()

    @property
    def text_tokens(self) -> int:
        """Number of token ids, soft tokens not counted."""
        return sum(len(run) for run in self.prompt if not isinstance(run, str)) + len(self.answer)

    @property
    def trained_tokens(self) -> int:
        """Number of token ids of all answers, stops included."""
        return sum(len(self.prompt[place]) for place in self.earlier) + len(self.answer)


def fitted(render: Callable[[Sequence[Turn]], Rendered], turns: Sequence[Turn], limit: int) -> Pieces:
    """The pieces of a conversation, at most `limit` token ids.

    The oldest exchanges are left out first, whole; their media move to the first one kept. Then words are cut from the end of
    the last question, and of the system's text; only if the frame alone is too long, from the end of the answer, which then has
    no stop, so that no false stop is learned.
    """
    runs, truncated = render(turns), False
    while _size(runs) > limit and exchanges(turns) > 1:
        turns, truncated = without_oldest(turns), True
        runs = render(turns)
    if (over := _size(runs) - limit) > 0:
        runs, truncated = _shortened(runs, over), True
    prompt: list[tuple[int, ...] | str] = []
    earlier: list[int] = []
    for run in runs[:-1]:
        if isinstance(run, str):
            prompt.append(run)
        elif run.origin == "answer":
            earlier.append(len(prompt))
            prompt.append(run.ids)
        elif prompt and not isinstance(prompt[-1], str) and len(prompt) - 1 not in earlier:
            prompt[-1] = (*prompt[-1], *run.ids)
        elif run.ids:
            prompt.append(run.ids)
    answer = runs[-1]
    return Pieces(tuple(prompt), () if isinstance(answer, str) else answer.ids, truncated, tuple(earlier))


def _size(runs: Rendered) -> int:
    return sum(len(run.ids) for run in runs if isinstance(run, Run))


def _shortened(runs: Rendered, over: int) -> Rendered:
    """The runs with `over` ids fewer: words from the end, then the last answer."""
    kept: Rendered = []
    for run in reversed(runs[:-1]):
        if isinstance(run, Run) and run.origin == "words" and over > 0:
            left = max(len(run.ids) - over, 0)
            over -= len(run.ids) - left
            run = replace(run, ids=run.ids[:left])
        kept.append(run)
    answer = runs[-1]
    if isinstance(answer, Run) and over > 0:
        answer = replace(answer, ids=answer.ids[: max(len(answer.ids) - over, 1)])
    return [*reversed(kept), answer]
