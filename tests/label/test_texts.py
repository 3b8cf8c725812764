import pytest

from laplace_al.label.texts import check_label, is_similar, printable


def test_labels_are_composed():
    assert check_label(" caf\u0065\u0301\t") == "café"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Blurry", "blurry", True),
        ("not  sure", "not-sure", True),
        ("not_sure", "notsure", True),
        ("A", "a", True),
        ("straße", "STRASSE", True),
        ("blury", "blurry", True),
        ("blurrry", "blurry", True),
        ("blurrx", "blurry", True),
        ("xblurry", "blurry", True),
        ("bulrry", "blurry", True),
        ("lburry", "blurry", True),
        ("blrruy", "blurry", False),
        ("blu", "blurry", False),
        ("cat", "cut", False),
        ("a", "b", False),
        ("class 1", "class 2", False),
        ("class1", "class11", False),
        ("classe 1", "class 1", True),
        ("left", "right", False),
    ],
)
def test_labels_that_may_be_one(one, other, expected):
    assert is_similar(one, other) == is_similar(other, one) == expected


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("ok é\t\x9b\u202e\udcff") == "ok é\\t\\x9b\\u202e\\udcff"
