"""Conversations as people keep them: LLaVA's `conversations` and OpenAI's `messages`, read as turns.

    [{"from": "human", "value": "<image>\\nHow many cats?"}, {"from": "gpt", "value": "Two."}]
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many cats?"}]},
     {"role": "assistant", "content": "Two."}]

A placeholder or part stands for the sample's next medium of its modality. Media of a modality without any place stand before the
first user's text. In `messages`, a text is searched for placeholders only if the sample has such media and no turn has a part for
media.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedloom.data.sample import MODALITIES, Medium, Role, Turn, modality_of

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}
"""The words for a speaker in the files that people have."""
TEXTS = ("text", "input_text", "output_text")
"""Types of a part that is text."""
PLACED = tuple(m for m in MODALITIES if m != "text")
"""The words of placeholders and of media parts."""
FILES = (
    "image",
    "audio",
    "video",
    "image_url",
    "audio_url",
    "input_audio",
    "url",
    "path",
    "bytes",
    "data",
    "base64",
)
"""The keys under which a media part may give its file, URL or content."""

Entry = tuple[Role, str | list[dict[str, Any]]]
"""Speaker, and a text or parts."""


def turns_of(value: object, media_keys: Sequence[str]) -> tuple[Turn, ...]:
    """The turns of a `conversations` or `messages` value about a sample's media, whose keys are `media_keys`.

    An optional system turn, then user and assistant in turn, the assistant last. Raises ValueError, with one clause, on
    anything else.
    """
    entries, llava = _entries(value)
    parted = any(
        _modality(part) for _, content in entries if not isinstance(content, str) for part in content
    )
    words = PLACED if llava else () if parted else [m for m in PLACED if m in map(modality_of, media_keys)]
    listed = [_turn(role, content, words) for role, content in entries]
    _check_order([turn.role for turn in listed])
    placed = _placed(listed, media_keys)
    for number, turn in enumerate(placed, 1):
        if not turn.media and not turn.text.strip():
            raise ValueError(f"turn {number} ({turn.role}) is empty")
    return tuple(placed)


def media_in(value: object) -> list[tuple[str, object]]:
    """The media parts of a `messages` value in order: modality, and the file, URL or content that the part gives, else None.

    Raises ValueError as `turns_of` does.
    """
    return [
        (modality, _given(part))
        for _, content in _entries(value)[0]
        if not isinstance(content, str)
        for part in content
        if (modality := _modality(part)) is not None
    ]


def last_question(turns: Sequence[Turn]) -> str:
    """The last user's text, which may be empty beside media."""
    return next(turn.text for turn in reversed(turns) if turn.role == "user").strip()


def last_answer(turns: Sequence[Turn]) -> str:
    """The last assistant's text."""
    return turns[-1].text


def _entries(value: object) -> tuple[list[Entry], bool]:
    """(the entries, types checked; whether they are LLaVA's). A mapping of columns and a text of JSON are read, too."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(
                "a conversation should be a list of turns, and is a text that is no JSON"
            ) from None
    columns = dict(value) if isinstance(value, Mapping) else {}
    if all(isinstance(c, list) for c in columns.values()) and len({len(c) for c in columns.values()}) == 1:
        value = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"a conversation should be a list of turns, and is {_short(value)}")
    first = value[0]
    llava = isinstance(first, Mapping) and first.get("from") is not None
    return [
        _entry(n, entry, ("from", "value") if llava else ("role", "content"))
        for n, entry in enumerate(value, 1)
    ], llava


def _entry(number: int, entry: object, names: tuple[str, str]) -> Entry:
    if not isinstance(entry, Mapping):
        raise ValueError(f"turn {number} should be an object, and is {_short(entry)}")
    if entry.get(names[0]) is None:
        raise ValueError(
            f'turn {number} should have "from" and "value", or "role" and "content", and all turns the same'
        )
    said, content = entry[names[0]], entry.get(names[1])
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise ValueError(f"turn {number} is spoken by {_short(said)}; known are {', '.join(ROLES)}")
    if isinstance(content, str):
        return role, _text(number, content)
    if names[1] == "value" or not isinstance(content, Sequence):
        kind = "a text" if names[1] == "value" else "a text or a list of parts"
        raise ValueError(f'the "{names[1]}" of turn {number} should be {kind}, and is {_short(content)}')
    return role, [_part(number, part) for part in content]


def _part(number: int, part: object) -> dict[str, Any]:
    """A part of a turn, without keys that are null, as columns of a table have them."""
    if isinstance(part, str):
        return {"type": "text", "text": _text(number, part)}
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of turn {number} should be an object, and is {_short(part)}")
    kept = {name: value for name, value in part.items() if value is not None}
    if kept.get("type") in TEXTS:
        if not isinstance(kept.get("text"), str):
            raise ValueError(
                f'a text part of turn {number} should have a "text", and has {_short(kept.get("text"))}'
            )
        return {"type": "text", "text": _text(number, kept["text"])}
    if _modality(kept) is None:
        raise ValueError(
            f"a part of turn {number} is of type {_short(kept.get('type'))}; known are text, image(_url), video and (input_)audio"
        )
    return kept


def _text(number: int, text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # tokenizers would fail in mid-run
        raise ValueError(f"turn {number} holds half of a surrogate pair, which is no Unicode text")
    return text


def _modality(part: Mapping[str, Any]) -> str | None:
    """The modality of a media part; None for text and for types that are not known."""
    name = str(part.get("type")).removeprefix("input_").removesuffix("_url")
    return name if name in PLACED else None


def _given(part: Mapping[str, Any]) -> object:
    """The file, URL or content of a media part, unwrapped from OpenAI's {"url": ...}; None where it gives none."""
    given = next((part[name] for name in FILES if name in part), None)
    return given["url"] if isinstance(given, Mapping) and "url" in given else given


def _turn(role: Role, content: str | list[dict[str, Any]], words: Sequence[str]) -> Turn:
    """A turn whose media have no key yet; `words`: the placeholders to look for in a user's text."""
    parts: list[str | Medium] = []
    if isinstance(content, str):
        # The line breaks around a placeholder belong to the format.
        pieces = re.split(rf"\n*<({'|'.join(words)})>\n*", content) if words and role == "user" else [content]
        parts += [Medium(p, "") if i % 2 else p for i, p in enumerate(pieces)]
    else:
        for part in content:
            modality = _modality(part)
            if modality is not None:
                parts.append(Medium(modality, ""))
            elif parts and isinstance(parts[-1], str):
                parts[-1] += part["text"]
            else:
                parts.append(part["text"])
    turn = Turn(role, tuple(p for p in parts if p != ""))
    if turn.media and role != "user":
        raise ValueError(f"a turn of the {role} holds {turn.media[0].modality}, and only a user's can")
    return turn


def _check_order(roles: Sequence[Role]) -> None:
    spoken = roles[1:] if roles[0] == "system" else roles
    wanted = ("user", "assistant")
    for number, role in enumerate(spoken):
        if role != wanted[number % 2]:
            turn = number + 1 + len(roles) - len(spoken)
            before = f"after the {roles[turn - 2]}'s" if turn > 1 else "at the beginning"
            raise ValueError(
                f"turn {turn} is the {role}'s, and {before} the {wanted[number % 2]}'s should stand"
            )
    if len(spoken) % 2 or not spoken:
        raise ValueError(
            f"it ends with the {roles[-1]}'s turn, and an answer of the assistant should stand last"
        )


def _placed(turns: Sequence[Turn], media_keys: Sequence[str]) -> list[Turn]:
    """The turns with the keys of their media. Raises ValueError where a modality has other numbers of places and of media."""
    places = [m.modality for turn in turns for m in turn.media]
    unplaced = []
    for modality in dict.fromkeys([*places, *map(modality_of, media_keys)]):
        keys = [key for key in media_keys if modality_of(key) == modality]
        if modality not in places:
            unplaced += [Medium(modality, key) for key in keys]
        elif places.count(modality) != len(keys):
            raise ValueError(
                f"the turns show {modality} {places.count(modality)} times, and the sample has {len(keys)} of it"
            )
    left = {m: iter([k for k in media_keys if modality_of(k) == m]) for m in places}
    placed = [
        replace(
            t,
            parts=tuple(p if isinstance(p, str) else replace(p, key=next(left[p.modality])) for p in t.parts),
        )
        for t in turns
    ]
    first = next(i for i, turn in enumerate(placed) if turn.role == "user")
    placed[first] = replace(placed[first], parts=(*unplaced, *placed[first].parts))
    return placed


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def exchanges(turns: Sequence[Turn]) -> int:
    """The number of answers."""
    return sum(turn.role == "assistant" for turn in turns)


def without_oldest(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns without the first question and answer; the question's media move to the next question."""
    first = 1 if turns[0].role == "system" else 0
    following = turns[first + 2]
    moved = replace(following, parts=(*turns[first].media, *following.parts))
    return *turns[:first], moved, *turns[first + 3 :]
