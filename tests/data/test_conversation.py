"""LLaVA's `conversations` and OpenAI's `messages` become turns; anything odd is one clause."""

import json
import re

import pytest
import torch

from fedloom.data.client_data import ClientData
from fedloom.data.conversation import last_answer, last_question, media_in, turns_of
from fedloom.data.sample import Medium, Sample, Turn, key_of, ordered

ONE, TWO = Medium("image", "image"), Medium("image", "image-2")
SOUND = Medium("audio", "audio")


def llava(*texts, system=None):
    said = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return said if system is None else [{"from": "system", "value": system}, *said]


def chat(*contents, system=None):
    said = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return said if system is None else [{"role": "system", "content": system}, *said]


def test_llava_turns_with_a_placeholder_where_it_stands():
    turns = turns_of(
        llava("<image>\nHow many?", "Two.", "And now <image>?", "Three.", system="Be brief."),
        ["image", "image-2"],
    )
    assert turns == (
        Turn("system", ("Be brief.",)),
        Turn("user", (ONE, "How many?")),
        Turn("assistant", ("Two.",)),
        Turn("user", ("And now ", TWO, "?")),
        Turn("assistant", ("Three.",)),
    )
    assert (last_question(turns), last_answer(turns)) == ("And now ?", "Three.")


def test_messages_with_parts_as_openai_and_as_hugging_face_write_them():
    url = {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}
    heard = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
    own = {"type": "image", "image": "b.png", "text": None}
    content = [
        url,
        {"type": "text", "text": "Is <image> like", "image": None},
        own,
        {"type": "text", "text": "?"},
        heard,
    ]
    messages = chat(
        content, [{"type": "text", "text": "N"}, {"type": "output_text", "text": "o."}], system="Answer."
    )
    turns = turns_of(messages, ["image", "image-2", "audio"])
    assert turns[1].parts == (ONE, "Is <image> like", TWO, "?", SOUND)
    assert turns[2] == Turn("assistant", ("No.",))
    assert media_in(messages) == [
        ("image", "a.png"),
        ("image", "b.png"),
        ("audio", {"data": "UklG", "format": "wav"}),
    ]


def test_placeholders_in_messages_of_plain_text():
    assert turns_of(chat("<image>Who?", "Me."), ["image"])[0].parts == (ONE, "Who?")
    assert turns_of(chat("What does <image> mean?", "A tag."), [])[0].parts == ("What does <image> mean?",)
    assert turns_of(chat("<audio>", "A tag."), ["image"])[0].parts == (ONE, "<audio>")


def test_media_without_a_place_stand_before_the_first_question():
    turns = turns_of(llava("Why?", "So.", "<image> and this?", "No.", system="S"), ["image", "audio"])
    assert turns[1].parts == (SOUND, "Why?")
    assert turns[3].parts == (ONE, " and this?")
    assert turns_of(llava("Why?", "So."), ["image", "image-2"])[0].parts == (ONE, TWO, "Why?")


def test_a_column_of_lists_and_json_text_are_conversations_too():
    expected = turns_of(llava("Why?", "So."), [])
    assert turns_of({"from": ["human", "gpt"], "value": ["Why?", "So."]}, []) == expected
    assert turns_of(json.dumps(llava("Why?", "So.")), []) == expected


def test_answers_keep_words_that_look_like_a_placeholder():
    assert turns_of(llava("Which tag?", "<image>"), [])[1].parts == ("<image>",)


@pytest.mark.parametrize(
    ("value", "keys", "clause"),
    [
        ([], [], "a conversation should be a list of turns, and is []"),
        ("Hello", [], "a conversation should be a list of turns, and is a text that is no JSON"),
        (7, [], "a conversation should be a list of turns, and is 7"),
        ({"from": ["human"], "value": []}, [], "a conversation should be a list of turns, and is {'from'"),
        (["Hi"], [], "turn 1 should be an object, and is 'Hi'"),
        (
            [{"text": "Hi"}],
            [],
            'turn 1 should have "from" and "value", or "role" and "content", and all turns the same',
        ),
        ([*llava("Hi", "Yes"), *chat("a", "b")], [], 'turn 3 should have "from" and "value"'),
        (
            [{"role": "tool", "content": "x"}],
            [],
            "turn 1 is spoken by 'tool'; known are system, developer, human",
        ),
        (
            [{"role": "user", "content": None}],
            [],
            'the "content" of turn 1 should be a text or a list of parts, and is None',
        ),
        ([{"from": "human", "value": ["x"]}], [], "the \"value\" of turn 1 should be a text, and is ['x']"),
        (chat([{"type": "file"}], "b"), [], "a part of turn 1 is of type 'file'; known are text"),
        (chat([3], "b"), [], "a part of turn 1 should be an object, and is 3"),
        (chat([{"type": "text"}], "b"), [], 'a text part of turn 1 should have a "text", and has None'),
        (
            llava("a", "b", "c"),
            [],
            "it ends with the user's turn, and an answer of the assistant should stand last",
        ),
        (chat(system="Only."), [], "it ends with the system's turn"),
        (llava("a", "b")[1:], [], "turn 1 is the assistant's, and at the beginning the user's should stand"),
        (
            [*chat("a"), *chat("b", "c")],
            [],
            "turn 2 is the user's, and after the user's the assistant's should stand",
        ),
        (
            [*chat("a", "b"), *chat("c", "d", system="S")],
            [],
            "turn 3 is the system's, and after the assistant's the user's",
        ),
        (llava("a", " "), [], "turn 2 (assistant) is empty"),
        (llava("", "b"), [], "turn 1 (user) is empty"),
        (llava("<image><image>", "b"), ["image"], "the turns show image 2 times, and the sample has 1 of it"),
        (
            llava("<image>", "b"),
            ["image", "image-2"],
            "the turns show image 1 times, and the sample has 2 of it",
        ),
        (llava("<video> What?", "b"), ["image"], "the turns show video 1 times, and the sample has 0 of it"),
        (chat([{"type": "audio"}], "b"), [], "the turns show audio 1 times, and the sample has 0 of it"),
        (
            chat("a", [{"type": "image"}]),
            ["image"],
            "a turn of the assistant holds image, and only a user's can",
        ),
        (llava("\ud800", "b"), [], "turn 1 holds half of a surrogate pair, which is no Unicode text"),
    ],
)
def test_an_odd_conversation_is_one_clause(value, keys, clause):
    with pytest.raises(ValueError, match="^" + re.escape(clause)) as refused:
        turns_of(value, keys)
    assert "\n" not in str(refused.value)


def test_a_sample_whose_turns_end_with_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="the turns of sample 'a' should end with an answer"):
        Sample("a", {}, "?", "!", turns=(Turn("user", ("?",)),))


def test_keys_kinds_and_holdings_speak_of_modalities():
    picture, sound = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(8)
    keys = [key_of("image", n) for n in (1, 2, 11)]
    sample = Sample("a", {"audio": sound, **dict.fromkeys(reversed(keys), picture)}, "?", "!")
    assert keys == ["image", "image-2", "image-11"]
    assert ordered(sample.modalities) == [*keys, "audio"]
    assert sample.kind == "image+audio"
    assert ClientData("c", [sample], []).holds == ("image", "audio")


def test_the_conversation_follows_changed_inputs_and_answers():
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    turns = turns_of(llava("<image> or <image>?", "First."), ["image", "image-2"])
    sample = Sample("a", {"image-2": picture}, "or?", "Second.", turns=turns)
    assert sample.conversation == (Turn("user", (" or ", TWO, "?")), Turn("assistant", ("Second.",)))


def test_a_single_question_reads_all_media_first():
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    sample = Sample("a", {"audio": torch.zeros(8), "image": picture, "image-2": picture}, "Why?", "So.")
    assert sample.conversation == (Turn("user", (ONE, TWO, SOUND, "Why?")), Turn("assistant", ("So.",)))
