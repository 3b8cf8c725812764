"""Warnings point at the line of the user, whatever lies between it and their origin."""

import threading
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, TorchFeatures
from laplace_al._common.warn import warn_user
from laplace_al.strategies import EntropySampling

X = np.linspace(-1.0, 1.0, 20, dtype=np.float32)[:, None]
Y = (np.arange(20) % 2)[:, None]  # a column, of which is warned
y = Y[:, 0]


class Squares(nn.Module):
    """A head with weights of its own, of which is warned."""

    def __init__(self):
        super().__init__()
        self.head = nn.Bilinear(1, 1, 2)

    def forward(self, X):
        return self.head(X, X)


CLF = LaplaceUpdateClassifier()
NETWORK = LaplaceUpdateClassifier(Squares())
FEATURES = TorchFeatures(Squares())


def places_of_warnings(call):
    """Files and lines that warnings point at."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return {(warning.filename, warning.lineno) for warning in caught}


@pytest.mark.parametrize(
    "call",
    [
        lambda: warn_user("said"),
        lambda: CLF.fit(X, Y),
        lambda: CLF.partial_fit(X, Y, classes=[0, 1]),
        lambda: FEATURES.fit_transform(X),
        lambda: TorchFeatures(Squares()).set_output(transform="pandas").fit_transform(X),
        lambda: NETWORK.fit(X, y),
        lambda: [*map(NETWORK.fit, [X], [y])],
        lambda: make_pipeline(StandardScaler(), NETWORK).fit(X, y),
        lambda: make_pipeline(FEATURES, CLF).fit(X, y),
        lambda: GridSearchCV(NETWORK, {"prior_precision": [1.0, 2.0]}).fit(X, y),
        lambda: cross_val_score(NETWORK, X, y),
        lambda: OneVsRestClassifier(NETWORK).fit(X, y),
        lambda: ActiveLearner(clone(CLF), EntropySampling(), X, X_initial=X, y_initial=Y),
        lambda: ActiveLearner(clone(CLF), EntropySampling(), X, classes=[0, 1]).teach(range(20), Y),
    ],
)
def test_the_line_that_calls(call):
    assert places_of_warnings(call) == {(__file__, call.__code__.co_firstlineno)}


def test_a_subclass_of_the_user_is_the_user():
    class Mine(LaplaceUpdateClassifier):
        def fit(self, X, y):
            return super().fit(X, y)

    place = __file__, Mine.fit.__code__.co_firstlineno + 1
    assert places_of_warnings(lambda: Mine().fit(X, Y)) == {place}


def test_what_is_typed_is_the_users_in_a_namespace_of_the_package_as_well():
    names = {"warn_user": warn_user, "__name__": "laplace_al.classifier"}  # as a doctest's is
    typed = compile("\nwarn_user('said')", "<stdin>", "exec")
    assert places_of_warnings(lambda: exec(typed, names)) == {("<stdin>", 2)}


def test_a_thread_without_a_line_of_the_user():
    def call():
        thread = threading.Thread(target=warn_user, args=["said"])
        thread.start()
        thread.join()

    ((file, _),) = places_of_warnings(call)
    assert file == threading.__file__
