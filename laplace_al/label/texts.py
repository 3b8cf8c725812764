"""Texts from people: labels, names of annotators and of files."""

import re
import unicodedata

from laplace_al.inputs.labels import is_utf8

_MAX_LABEL_LENGTH = 200


def check_label(label: object) -> str:
    """Return a label as it is kept: one line, without spaces around it, in Unicode's composed form.

    Raises ``ValueError`` for anything but a text of one line and 1 to 200 characters.
    """
    if not isinstance(label, str):
        raise ValueError(f"A label must be a text; got {label!r}.")
    text = unicodedata.normalize("NFC", label).strip()
    if not text or len(text) > _MAX_LABEL_LENGTH or any(map(_is_control, text)):
        raise ValueError(
            f"A label must be a text of one line, of 1 to {_MAX_LABEL_LENGTH} characters; got "
            f"{label[:50]!r}."
        )
    return text


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def is_similar(one: str, other: str) -> bool:
    """Return whether one of two labels may be a slip for the other.

    They differ only in case, spaces, hyphens or underscores, or, from four characters on, in one
    letter that is missing, added, changed or swapped with the next. Different digits are no slip.
    """
    one, other = (re.sub(r"[\s_-]+", " ", text.casefold()).strip() for text in (one, other))
    if one == other or one.replace(" ", "") == other.replace(" ", ""):
        return True
    if min(len(one), len(other)) < 4 or re.findall(r"\d", one) != re.findall(r"\d", other):
        return False
    start = _n_common(one, other)
    one, other = one[start:], other[start:]
    end = _n_common(one[::-1], other[::-1])
    one, other = one[: len(one) - end], other[: len(other) - end]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])


def _n_common(one: str, other: str) -> int:
    """Return the length of the beginning that two texts share."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def check_annotator(annotator: str | None) -> str | None:
    """Return the name of an annotator; refuse one that is not UTF-8, which no journal can hold."""
    if annotator is not None and not is_utf8(annotator):
        raise ValueError(
            f"annotator must be a text that UTF-8 has a form for; got {annotator!r}. Type the name "
            "in a terminal that uses UTF-8, or give another."
        )
    return annotator


def printable(text: object) -> str:
    """Return a text with all characters escaped that a terminal would obey.

    Names of files and columns may come from strangers.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )
