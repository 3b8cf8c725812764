import enum

import numpy as np
import pandas as pd
import pytest
import torch
from learners import POOL, START, X, X_pool, assert_unchanged, make, state, y, y_pool
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling


class Mail(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    SPAM = "spam"
    HAM = "ham"
    NEWS = "news"


def test_no_label_is_not_a_label():
    learner = make()
    before = state(learner)
    with pytest.raises(ValueError, match=r"got None at position 0\. Call skip for instances"):
        learner.teach(0, None)
    assert_unchanged(learner, before)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_a_missing_label_is_refused(missing):
    learner = make(X_initial=None, y_initial=None)
    before = learner._state.now
    for labels in (["cat", "dog", missing], pd.Series(["cat", "dog", missing], dtype=object)):
        with pytest.raises(ValueError, match=r"y must hold labels; got.* at position 2. Call skip"):
            learner.teach([0, 1, 2], labels)
    assert learner._state.now == before


@pytest.mark.parametrize("missing", [np.ma.array([0, 1, 9], mask=[0, 0, 1]), [0, 1, np.ma.masked]])
def test_a_masked_label_is_refused(missing):
    learner = make(X_initial=None, y_initial=None)
    with pytest.raises(ValueError, match=r"y must hold labels; got .* at position 2. Call skip"):
        learner.teach([0, 1, 2], missing)
    with pytest.raises(ValueError, match=r"y_initial must hold labels; got .* at position 2"):
        make(X_initial=X[:3], y_initial=missing)
    assert learner.labels_.empty


class TestKindsOfLabels:
    COLD = {"X_initial": None, "y_initial": None}

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), GaussianNB()])
    def test_members_of_an_enum(self, estimator):
        learner = make(estimator, refit_every=1, **self.COLD).teach([0, 50, 100], list(Mail))
        twin = make(estimator, refit_every=1, **self.COLD).teach(
            [0, 50, 100], [*map(str.__str__, Mail)]
        )
        learner.teach(1, Mail.SPAM).relabel(1, Mail.HAM)
        assert learner.labels_.label.tolist() == ["spam", "ham", "news", "ham"]
        assert {type(label) for label in learner.labels_.label} == {str}
        twin.teach(1, "ham")
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        labels = np.array(list(Mail), dtype=object)[y]
        assert learner.score(X, labels) == twin.score(X, [*map(str.__str__, labels)]) > 0.3

    @pytest.mark.parametrize(
        "settings",
        [
            {"classes": list(Mail)},
            {"X_initial": X[START], "y_initial": [list(Mail)[k] for k in y[START]]},
        ],
    )
    def test_members_of_an_enum_from_the_start(self, settings):
        learner = make(**(self.COLD | settings)).teach([0, 50], [Mail.SPAM, Mail.HAM])
        assert learner.estimator_.classes_.tolist() == ["ham", "news", "spam"]

    @pytest.mark.parametrize(
        "classes",
        [["a", None], ["a", np.nan], ["a", 1], [b"a", b"b"], {"a", "b"}, iter("ab"), [1, 1.5]],
    )
    def test_classes_are_looked_at_before_anybody_works(self, classes):
        with pytest.raises(ValueError, match="classes must"):
            make(classes=classes, **self.COLD)

    @pytest.mark.parametrize(
        ("first", "then", "expected"),
        [(1, 2.0, 2), (1.0, 2, 2.0), (np.float32(1), np.uint8(2), 2.0), (True, np.False_, False)],
    )
    def test_labels_are_of_the_type_of_the_first(self, first, then, expected, tmp_path):
        settings = self.COLD | {"journal": tmp_path / "labels.sqlite"}
        with make(**settings) as learner:
            label = learner.teach(0, first).teach(50, then).labels_.label.tolist()[1]
        assert (label, type(label)) == (expected, type(expected))
        with make(**settings) as again:
            assert type(again.labels_.label.tolist()[1]) is type(expected)

    @pytest.mark.parametrize(
        ("first", "other"), [(1, True), (True, 0), ("1", 1), (1.0, 2**53 + 1), (1, 1e300)]
    )
    def test_another_kind_than_the_first(self, first, other):
        learner = make(**self.COLD).teach(0, first)
        with pytest.raises(ValueError, match="of the same kind as those so far"):
            learner.teach(1, other)
        assert learner.labels_.label.tolist() == [first]

    def test_labels_are_the_declared_ones(self):
        learner = make(classes=[0, 1], **self.COLD).teach([0, 50], [True, False])
        assert [type(label) for label in learner.labels_.label] == [int, int]

    def test_another_kind_than_the_fitted_estimator_knows(self):
        fitted = LaplaceUpdateClassifier().fit(X[START], y[START])
        with pytest.raises(
            ValueError, match="of the same kind as those so far, such as 0; got 'a'"
        ):
            make(fitted, **self.COLD).teach(0, "a")

    @pytest.mark.parametrize("labels", [[0, "a"], [True, 2], [b"a", b"b"], [1.5, 2], {0, 1}, "ab"])
    def test_what_is_refused_is_not_recorded(self, labels):
        learner = make(**self.COLD)
        with pytest.raises(ValueError, match="y must"):
            learner.teach([0, 50], labels)
        assert learner.history_.empty


class TestAnnotators:
    @pytest.mark.parametrize("annotator", [5, np.int64(5), b"ann", 1.5, ["ann"]])
    def test_other_than_text(self, annotator):
        with pytest.raises(TypeError, match=r"annotator must be a text or None; got .* Pass str"):
            make(annotator=annotator)
        learner = make()
        for act in (
            lambda: learner.teach(0, 0, annotator=annotator),
            lambda: learner.skip(0, annotator=annotator),
        ):
            with pytest.raises(TypeError, match="annotator must be a text or None"):
                act()
        assert learner.history_.empty

    def test_text_that_no_file_can_hold(self):
        with pytest.raises(ValueError, match="annotator must be text that UTF-8 has a form for"):
            make(annotator="ann\udcff")

    def test_members_of_an_enum(self):
        (name,) = make(annotator=Mail.SPAM).teach(0, 0).labels_.annotator
        assert (name, type(name)) == ("spam", str)


class TestInitialLabels:
    @pytest.mark.parametrize("kind", [pd.DataFrame, lambda column: column])
    def test_a_column(self, kind):
        with pytest.warns(DataConversionWarning, match="column-vector"):
            learner = make(y_initial=kind(y[START][:, None])).teach([0], y_pool[:1])
        expected = make().teach([0], y_pool[:1])
        np.testing.assert_array_equal(learner.predict_proba(X), expected.predict_proba(X))

    def test_missing_ones(self):
        with pytest.raises(ValueError, match="y_initial must hold labels; got None at position 8"):
            make(y_initial=["a"] * 8 + [None])

    @pytest.mark.parametrize("none", [[], np.empty((0, 4))])
    def test_none(self, none):
        with pytest.raises(ValueError, match="X_initial has no rows"):
            make(X_initial=none, y_initial=[])

    def test_outside_the_classes(self):
        with pytest.raises(ValueError, match=r"not among the classes: \[2\]"):
            make(SGDClassifier(loss="log_loss"), classes=[0, 1])


class TestWeightsOfClassesToCome:
    def test_they_wait(self):
        weighted = LaplaceUpdateClassifier(class_weight={"fraud": 10}, prior_precision=1.0)
        settings = {"X_initial": None, "y_initial": None, "refit_every": None}
        learner = make(weighted, **settings).teach([0, 50], ["fine", "odd"])
        learner.teach(100, "fraud")
        twin = LaplaceUpdateClassifier(prior_precision=1.0)
        twin.fit(X_pool[[0, 50]], ["fine", "odd"]).add_classes("fraud")
        twin.partial_fit(X_pool[[100]], ["fraud"], sample_weight=[10])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        twin.fit(X_pool[[0, 50, 100]], ["fine", "odd", "fraud"], [1, 1, 10])
        np.testing.assert_array_equal(learner.refit().predict_proba(X), twin.predict_proba(X))

    def test_a_slip_where_classes_are_declared(self):
        weighted = LaplaceUpdateClassifier(class_weight={"fruad": 10})
        with pytest.raises(
            ValueError, match="got 'fruad', which is not among the classes declared"
        ):
            make(weighted, X_initial=None, y_initial=None, classes=["fine", "fraud"])

    def test_keys_of_another_kind(self):
        with pytest.raises(ValueError, match="class_weight must have numbers as its keys"):
            make(LaplaceUpdateClassifier(class_weight={"1": 10}))


def test_a_label_of_a_class_without_weight_is_recorded():
    learner = make(LaplaceUpdateClassifier(class_weight={2: 0.0}))
    learner.query()
    before = learner.predict_proba(X)
    learner.teach(100, 2)
    assert learner.labels_.label.tolist() == [2]
    np.testing.assert_array_equal(learner.predict_proba(X), before)
    state = learner.pool_.state_under(learner.estimator_)
    np.testing.assert_allclose(state.predict_proba(), learner.predict_proba(X_pool))


def test_a_trained_head_with_classes_in_the_order_of_its_outputs():
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double()
    names = np.array(["virginica", "setosa", "versicolor"])
    learner = ActiveLearner(
        LaplaceUpdateClassifier(
            network, head="pretrained", prior_precision=1e9, predictive="plug_in", calibration=None
        ),
        MarginSampling(),
        X[POOL],
        classes=names,
    )
    learner.teach([0, 50], names[y[POOL][[0, 50]]])
    outputs = network(torch.from_numpy(X)).detach().numpy().argmax(axis=1)
    np.testing.assert_array_equal(learner.predict(X), names[outputs])
