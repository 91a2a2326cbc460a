"""Normal forms and words of texts in any script, shared by all text metrics."""

import unicodedata

import regex  # Unicode scripts, which Python's own re does not know

_WORD = r"\p{L}\p{M}\p{N}"
_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_LETTER = regex.compile(rf"((?!\d){_WITHOUT_SPACES}\p{{M}}*)")
_NUMBER = rf"""
    (?: [<>]=? )?                               # a bound
    (?: (?<![{_WORD}]) - )?                     # a sign; a hyphen after a letter is none
    (?: (?<![{_WORD}.]) \. )?                   # a leading point
    \d+ (?: [^{_WORD}\s]+ \d+ | e[-+]?\d+ )*    # 1.5, 1/2, 10:30, 3-5, 1e-5
"""
_PUNCTUATION = regex.compile(rf"({_NUMBER}) | [\p{{P}}$+<=>^`|~]", regex.VERBOSE)
_SEPARATOR = regex.compile(rf"({_NUMBER}) | [^{_WORD}]", regex.VERBOSE)
_EXPONENT = regex.compile(r"(?<=\d)(?=[\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079])")
_FRACTION = regex.compile(r"(?<=\d)(?=\p{No})")
_THOUSANDS = regex.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_BEFORE_NUMBER = regex.compile(r"(?<=[<>]=?)\s+(?=[-.\d]) | (?<!\d)\$(?=\.?\d)", regex.VERBOSE)
_INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")
_DASH = regex.compile(r"[\p{Pd}\u2212]")
_SAME = str.maketrans({"\u2044": "/", "\u2264": "<=", "\u2265": ">="})
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """SQuAD's normal form for any script: case folded, no punctuation, no English articles, single spaces.

    A number keeps its sign, its point and all other signs between its digits; "1,000" is "1000", as in English. Articles and
    marks that stand alone ("the", "?") are kept, so that such answers stay comparable.
    """
    same = folded(text)
    kept = _PUNCTUATION.sub(lambda found: found[1] or "", same).split()
    return " ".join([word for word in kept if word not in _ARTICLES] or kept or same.split())


def words(text: str) -> list[str]:
    """The folded words of a text, numbers whole; in scripts without spaces every letter, with its marks, is a word.

    Without a letter or digit: the whole text as one word, or no word if it is empty.
    """
    same = folded(text)
    found = spaced(_SEPARATOR.sub(lambda found: found[1] or " ", same)).split()
    return found or same.split()


def spaced(text: str) -> str:
    """The text in NFKC with spaces around each letter of a script that is written without spaces."""
    return str(_LETTER.sub(r" \1 ", unicodedata.normalize("NFKC", text)))


def folded(text: str) -> str:
    """The text in one spelling: NFKC, case folded, one kind of dash, no invisible characters, no thousands' commas.

    10² becomes 10^2 and 1½ becomes 1 1/2, which NFKC alone would join to 102 and 11/2.
    """
    text = _INVISIBLE.sub("", text)
    text = _FRACTION.sub(" ", _EXPONENT.sub("^", text))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _BEFORE_NUMBER.sub("", _DASH.sub("-", text.translate(_SAME)))
    return str(_THOUSANDS.sub(lambda found: found[0].replace(",", ""), text))
