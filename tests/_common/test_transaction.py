import threading

import numpy as np
import pandas as pd
import pytest
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al._common.transaction import all_or_nothing, on_one_state


class Account:
    def __init__(self):
        self.balance, self.note = 1, "old"

    @all_or_nothing
    def change(self, error):
        """Change everything, then fail."""
        self.balance, self.new = 2, True
        del self.note
        if error is not None:
            raise error
        return self


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
def test_an_error_restores_every_attribute(error):
    account = Account()
    with pytest.raises(type(error)):
        account.change(error)
    assert vars(account) == {"balance": 1, "note": "old"}


def test_success_keeps_the_changes_and_the_result():
    account = Account()
    assert account.change(None) is account
    assert vars(account) == {"balance": 2, "new": True}


def test_the_method_keeps_its_name_and_docstring():
    assert Account.change.__name__ == "change"
    assert Account.change.__doc__ == "Change everything, then fail."


class Pair:
    first = second = 0

    @all_or_nothing
    def put(self, number, meanwhile=None):
        self.first = number
        if meanwhile is not None:
            meanwhile()
        self.second = number
        return self

    @on_one_state
    def get(self, meanwhile):
        first = self.first
        meanwhile()
        return first, self.second


def test_what_is_half_done_is_not_seen():
    pair, seen = Pair().put(1), []
    pair.put(2, meanwhile=lambda: seen.append((pair.first, pair.second)))
    assert seen == [(1, 1)]
    assert (pair.first, pair.second) == (2, 2)


def test_a_reader_goes_on_with_what_it_began_with():
    pair = Pair()
    assert pair.get(meanwhile=lambda: pair.put(1)) == (0, 0)
    assert pair.get(meanwhile=lambda: None) == (1, 1)


def test_no_change_of_another_thread_is_lost():
    pair = Pair()
    with pytest.raises(RuntimeError, match=r"changed by another thread during put.*Hold a lock"):
        pair.put(2, meanwhile=lambda: pair.put(1))
    assert (pair.first, pair.second) == (1, 1)


class Settings:
    def __init__(self, **values):
        vars(self).update(values)

    @all_or_nothing
    def fit(self, meanwhile):
        self.fitted = True
        meanwhile(self)
        return self


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (1, lambda one: setattr(one, "value", 2)),
        (1, lambda one: setattr(one, "other", None)),
        (1, lambda one: delattr(one, "value")),
        (np.zeros(2), lambda one: setattr(one, "value", np.zeros(2))),
        (1, lambda one: setattr(one, "value", np.zeros(2))),
        (torch.zeros(2), lambda one: setattr(one, "value", torch.ones(2))),
        (pd.Series([1]), lambda one: setattr(one, "value", pd.Series([2]))),
        (None, lambda one: vars(one).update(value=1)),
    ],
)
def test_an_attribute_that_is_assigned_meanwhile_is_not_lost(before, change):
    settings, expected = Settings(value=before), Settings(value=before)
    change(expected)
    with pytest.raises(RuntimeError, match=r"changed by another thread during fit.*Hold a lock"):
        settings.fit(lambda draft: change(settings))
    assert vars(settings).keys() == vars(expected).keys()
    for name, value in vars(settings).items():
        np.testing.assert_array_equal(value, vars(expected)[name])
    settings.fit(lambda draft: None)
    assert settings.fitted


@pytest.mark.parametrize("value", [np.zeros(2), torch.zeros(2), float("nan"), pd.Series([1, 2])])
def test_values_that_do_not_compare_are_no_change(value):
    settings = Settings(value=value).fit(lambda draft: setattr(draft, "value", np.ones(3)))
    assert settings.fitted
    settings.fit(lambda draft: settings.fitted)


def test_values_are_not_asked_whether_they_are_equal():
    class Proud:
        def __eq__(self, other):
            raise AssertionError

        __hash__ = None

    assert Settings(value=Proud()).fit(lambda draft: None).fitted


def test_parameters_set_during_a_fit_are_not_lost():
    started, goes_on = threading.Event(), threading.Event()
    errors = []

    def slow(X):
        started.set()
        goes_on.wait(10)
        return np.asarray(X)

    clf = LaplaceUpdateClassifier(slow)

    def fit():
        try:
            clf.fit([[-1.0], [1.0]], [0, 1])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    started.wait(10)
    clf.set_params(predictive="plug_in", n_samples=7)
    goes_on.set()
    thread.join()
    assert "LaplaceUpdateClassifier was changed by another thread during fit" in str(errors[0])
    assert (clf.predictive, clf.n_samples, hasattr(clf, "posterior_")) == ("plug_in", 7, False)
    assert clf.fit([[-1.0], [1.0]], [0, 1]).predictive == "plug_in"
