"""Accuracy of a digit's class from its description: python -m benchmarks.digits_words

Logistic regression on the set of words. Handwriting: every fifth description is for testing, the other 1,437 for training.
"""

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fedloom.data.digits import WORDINGS, describe, handwriting, printed


def main() -> None:
    hand, labels = handwriting()
    shown, shown_labels = printed(500, 1)
    learn = np.arange(len(hand)) % 5 != 4
    captions = [describe(p, 0) for p in shown]
    descriptions = [
        np.array([describe(p, i, w) for i, p in enumerate(hand)], object) for w in range(len(WORDINGS))
    ]
    print(
        "| wording | handwriting, the same | handwriting, the public | print, the public |\n|---|---|---|---|"
    )
    for wording, texts in enumerate(descriptions):
        words = make_pipeline(CountVectorizer(binary=True), LogisticRegression(max_iter=300))
        words.fit(texts[learn], labels[learn])
        own, public = (words.score(t[~learn], labels[~learn]) for t in (texts, descriptions[0]))
        print(f"| {wording} | {own:.1%} | {public:.1%} | {words.score(captions, shown_labels):.1%} |")


if __name__ == "__main__":
    main()
