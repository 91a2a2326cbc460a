"""Scores of yes or no answers and of multiple choice, as in benchmarks of multimodal LLMs."""

import re
from collections.abc import Mapping, Sequence


def said(answer: str) -> str | None:
    """The verdict `yes` or `no`, by the first such word in an answer; None if there is none."""
    match = re.search(r"\b(yes|no|not)\b", answer.lower())
    return None if match is None else "yes" if match.group(1) == "yes" else "no"


def yes_no(answers: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """POPE's figures (Li et al., 2023), "yes" positive; an answer without verdict is wrong and counts as no.

    `accuracy`, `precision`, `recall`, `f1`, `yes_rate` (high for a hallucinating model), `unanswered`. Absent are `precision`
    if no answer is yes, `recall` and `f1` if no truth is, and all of them without answers.
    """
    verdicts = [said(a) for a in answers]
    if not verdicts:
        return {}
    n = len(verdicts)
    right = sum(a == t for a, t in zip(verdicts, truths, strict=True))
    hits = sum(a == t == "yes" for a, t in zip(verdicts, truths, strict=True))
    claims, positives = verdicts.count("yes"), list(truths).count("yes")
    return {
        "accuracy": right / n,
        **({"precision": hits / claims} if claims else {}),
        **({"recall": hits / positives, "f1": 2 * hits / (claims + positives)} if positives else {}),
        "yes_rate": claims / n,
        "unanswered": verdicts.count(None) / n,
    }


def mme(
    answers: Sequence[str], truths: Sequence[str], images: Sequence[str], categories: Sequence[str]
) -> dict[str, float]:
    """MME's score (Fu et al., 2023) per category, 0 to 200: 100 times accuracy plus 100 times the share of pictures with both
    questions right; and their sum as `score`. Empty without answers.
    """
    scores: dict[str, float] = {}
    right = [said(a) == t for a, t in zip(answers, truths, strict=True)]
    for category in sorted(set(categories)):
        own = [i for i, c in enumerate(categories) if c == category]
        pictures: dict[str, list[bool]] = {}
        for i in own:
            pictures.setdefault(images[i], []).append(right[i])
        accuracy = sum(right[i] for i in own) / len(own)
        scores[f"score/{category}"] = 100 * accuracy + 100 * sum(map(all, pictures.values())) / len(pictures)
    return {**scores, "score": sum(scores.values())} if scores else {}


def letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter of `choices` that an answer names: as a first word such as "B" or "(B)", or by the choice's own words."""
    plain = answer.strip()
    match = re.match(r"[(\[]?([A-Z])[)\].:,]?(\s|$)", plain)
    if match and match.group(1) in choices:
        return match.group(1)
    named = [key for key, text in choices.items() if text and text.lower() in plain.lower()]
    return named[0] if len(named) == 1 else None
