"""The guess of columns: usual names, types, files by their suffix, and what is not guessed."""

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.tables.columns import Columns, find


def guess(features: dict[str, str] | list[str], given: dict | None = None, **values: list) -> dict[str, str]:
    """The columns by part; `values` are the first values of a column."""
    named = features if isinstance(features, dict) else dict.fromkeys(features, "")
    return find(Columns(**(given or {})), named, "x", lambda c: values.get(c, []))[0].named()


@pytest.mark.parametrize(
    ("features", "parts"),
    [
        (["image", "question", "answer"], {"image": "image", "question": "question", "answer": "answer"}),
        (["Img", "Prompt", "Response"], {"image": "Img", "question": "Prompt", "answer": "Response"}),
        (["question", "multiple_choice_answer", "answer"], {"question": "question", "answer": "answer"}),
        ({"picture": "Image", "caption": "Value"}, {"image": "picture", "answer": "caption"}),
        ({"x": "Audio", "sentence": ""}, {"audio": "x", "answer": "sentence"}),
        ({"audio": "Audio", "transcription": "", "answers": ""}, {"audio": "audio", "answer": "answers"}),
        ({"text": "", "y": "ClassLabel"}, {"question": "text", "label": "y"}),
        (["text", "intent"], {"question": "text", "label": "intent"}),
        ({"image": "Image", "label": "ClassLabel"}, {"image": "image", "label": "label"}),
        (
            ["instruction", "output", "user_id"],
            {"question": "instruction", "answer": "output", "client": "user_id"},
        ),
        (["image_name", "conversation"], {"image": "image_name", "messages": "conversation"}),
        (["messages", "answer"], {"messages": "messages"}),
    ],
)
def test_usual_columns(features, parts: dict[str, str]) -> None:
    assert guess(features) == parts


def test_files_are_told_apart_by_their_suffix() -> None:
    assert guess(["path", "sentence"], path=["a.mp3"]) == {"audio": "path", "answer": "sentence"}
    assert guess(["file_name", "text"], file_name=[None, "a.JPG"]) == {"image": "file_name", "answer": "text"}
    assert guess(["path", "answer"], path=["a.txt"]) == {"answer": "answer"}


def test_a_column_that_holds_no_splits_is_none() -> None:
    assert guess(["answer", "subset"], subset=["en", "de"]) == {"answer": "answer"}
    assert guess(["answer", "subset"], subset=["train", "dev"]) == {"answer": "answer", "split": "subset"}


def test_named_columns_are_kept_and_not_guessed_twice() -> None:
    given = {"answer": "caption"}
    assert guess(["caption", "answer", "image"], given) == {"answer": "caption", "image": "image"}


def test_several_columns_that_may_be_meant() -> None:
    with pytest.raises(
        ExperimentError, match=r"data\.columns\.image: x has the columns a and b, and each may be"
    ):
        guess({"a": "Image", "b": "Image"})
    assert guess({"image": "Image", "mask": "Image"}) == {"image": "image"}


def test_a_conversation_and_named_texts_exclude_each_other() -> None:
    assert guess(["messages", "q", "a"], {"question": "q", "answer": "a"}) == {"question": "q", "answer": "a"}
    with pytest.raises(ValueError, match="messages hold their questions and answers"):
        Columns(messages="m", answer="a")
