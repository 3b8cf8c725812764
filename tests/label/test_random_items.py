import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from laplace_al.label.random_items import Accuracy, drawn_before, is_due, random_order


def history(*events):
    return pd.DataFrame(events, columns=["action", "position"])


LABELS = [("label", i) for i in range(9)]


def test_orders_are_the_same_and_random():
    np.testing.assert_array_equal(random_order(1000), random_order(1000))
    np.testing.assert_array_equal(np.sort(random_order(1000)), np.arange(1000))
    assert abs(np.corrcoef(random_order(1000), np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("n_labels", [0, 1, 8, 9, 10, 18, 19, 20])
def test_due(n_labels):
    events = [("label", i) for i in range(n_labels)] + [("relabel", 0), ("skip", 99)]
    assert is_due(history(*events)) == (n_labels in (9, 19))


@pytest.mark.parametrize(
    ("events", "left_out", "expected"),
    [
        ([*LABELS, ("label", 20)], [], [20]),
        ([*LABELS, ("label", 21)], [], []),
        ([*LABELS, ("label", 21)], [20], [21]),
        ([*LABELS, ("skip", 20), ("label", 21)], [], [21]),
        ([("skip", 20), ("unskip", 20), *LABELS, ("label", 20)], [], [20]),
        ([*LABELS, ("unlabel", 3), ("label", 3)], [], [3]),
        ([*LABELS, ("refit", None), ("label", 20)], [], [20]),
        ([*LABELS, ("label", None)], [], []),
        ([*LABELS[:8], ("label", None), ("label", 8)], [], [8]),
        ([*LABELS, ("label", 20), ("relabel", 20)], [], [20]),
    ],
)
def test_what_had_been_drawn(events, left_out, expected):
    order = [0, 3, 8, 20, 21, 22]
    table = history(*events).astype({"position": "Int64"})
    assert drawn_before(table, order, left_out) == expected


@pytest.mark.parametrize(("n_hits", "n"), [(0, 5), (5, 5), (7, 20)])
def test_interval_is_that_of_wilson(n_hits, n):
    accuracy = Accuracy.of([True] * n_hits + [False] * (n - n_hits))
    z, p = norm.ppf(0.975), n_hits / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (accuracy.share, accuracy.n_guesses) == (p, n)
    np.testing.assert_allclose(
        [accuracy.low, accuracy.high], [middle - half, middle + half], atol=1e-9
    )
