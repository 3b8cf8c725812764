import contextlib
import copy

import numpy as np
import pandas as pd
import pytest
from learners import (
    POOL,
    START,
    X,
    X_pool,
    make,
    told,
    warns_that_it_waits,
    y,
    y_pool,
)
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.trainer import _MAX_DRIFT
from laplace_al.strategies import BALD, CoreSet, MarginSampling, RandomSampling, TypiClust

CLOSEST, CALIBRATED = KNeighborsClassifier(), CalibratedClassifierCV(LogisticRegression(), cv=3)


SEARCH = GridSearchCV(LaplaceUpdateClassifier(), {"prior_precision": [0.1, 1.0]}, cv=3)


class TestColdStart:
    COLD = {"X_initial": None, "y_initial": None}

    @pytest.mark.parametrize(
        ("estimator", "refit_every"),
        [
            (LaplaceUpdateClassifier(prior_precision=1.0), None),
            (GaussianNB(), None),
            (LogisticRegression(), 1),
            (make_pipeline(StandardScaler(), LaplaceUpdateClassifier(prior_precision=1.0)), 1),
        ],
    )
    def test_labels_wait_until_there_are_two_classes(self, estimator, refit_every):
        learner = make(estimator, refit_every=refit_every, **self.COLD)
        for position in (0, 1):
            learner.query()
            learner.teach(position, 0)
            assert not learner.is_fitted
        learner.relabel(1, 1).relabel(1, 0) if learner.is_fitted else learner.relabel(1, 0)
        learner.teach(50, 1)
        assert learner.is_fitted
        twin = estimator.fit(X_pool[[0, 1, 50]], [0, 0, 1])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.history_.action.tolist()[-2:] == ["label", "refit"]
        learner.query()

    @pytest.mark.parametrize("strategy", [CoreSet(random_state=0), TypiClust(random_state=0)])
    @pytest.mark.parametrize("extractor", [None, np.tanh])
    def test_strategies_that_look_at_features_choose_from_the_start(self, strategy, extractor):
        learner = make(LaplaceUpdateClassifier(extractor), strategy, **self.COLD)
        features = X_pool if extractor is None else extractor(X_pool)
        expected = strategy.query(None, features, 4)
        np.testing.assert_array_equal(learner.query(4), expected)

    def test_new_classes_open(self):
        learner = make(**self.COLD).teach([0, 50], [0, 1]).teach(100, 2)
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(X_pool[[0, 50]], [0, 1])
        twin.add_classes(2).partial_fit(X_pool[[100]], [2])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.history_.action.tolist() == ["label", "label", "refit", "label"]
        assert learner.query(3).shape == (3,)
        assert learner.refit().predict_proba(X).shape == (150, 3)

    @pytest.mark.parametrize("dtype", [object, "category", None])
    def test_new_classes_open_beside_text_from_pandas(self, dtype):
        names = load_iris().target_names
        rows = START[:6]
        series = pd.Series(names[y[rows]], index=rows, dtype=dtype)
        learner = make(X_initial=X[rows], y_initial=series)
        learner.teach(100, "virginica").teach([101, 3], pd.Series(["virginica", "setosa"]))
        twin = make(X_initial=X[rows], y_initial=names[y[rows]])
        twin.teach(100, "virginica").teach([101, 3], ["virginica", "setosa"])
        assert learner.estimator_.classes_.tolist() == names.tolist()
        np.testing.assert_array_equal(learner.predict(X), twin.predict(X))
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        np.testing.assert_array_equal(learner.refit().predict(X), twin.refit().predict(X))

    @pytest.mark.parametrize("label", [2, 2.0, np.uint8(2)])
    @pytest.mark.parametrize("dtype", [float, int, np.float32])
    def test_new_classes_open_for_numbers_of_any_kind(self, label, dtype):
        rows = START[:6]
        learner = make(X_initial=X[rows], y_initial=y[rows].astype(dtype)).teach(100, label)
        twin = make(X_initial=X[rows], y_initial=y[rows]).teach(100, 2)
        assert learner.estimator_.classes_.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_new_classes_of_an_estimator_that_cannot_open_them(self):
        learner = make(GaussianNB(), **self.COLD).teach([0, 1, 50, 51], [0, 0, 1, 1])
        learner.teach([100, 101], [2, 2])
        twin = GaussianNB().fit(X_pool[[0, 1, 50, 51, 100, 101]], [0, 0, 1, 1, 2, 2])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_labels_of_another_kind(self):
        learner = make(**self.COLD).teach(0, "cat")
        with pytest.raises(ValueError, match="same kind as those so far, such as 'cat'; got"):
            learner.teach(1, 3)
        with pytest.raises(ValueError, match="of the same kind as those so far"):
            make(y_initial=y[START]).teach(0, "cat")


class TestAutomaticRefits:
    def test_it_refits_when_the_decrement_says_so(self):
        learner = make(LaplaceUpdateClassifier(prior_precision=0.01), refit_every="auto")
        n_refits, order, n_fitted = 0, np.random.default_rng(0).permutation(141), len(START)
        for n_labels, position in enumerate(order, start=1):
            before = copy.deepcopy(learner.estimator_)
            learner.teach(position, y_pool[position])
            before.partial_fit(X_pool[[position]], y_pool[[position]])
            rows = np.r_[START, POOL[order[:n_labels]]]
            growth = (len(rows) - n_fitted) / n_fitted
            is_far = growth * before.newton_decrement(X[rows], y[rows]) > _MAX_DRIFT
            n_refits, n_fitted = n_refits + is_far, len(rows) if is_far else n_fitted
            twin = clone(before).fit(X[rows], y[rows]) if is_far else before
            np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-6)
        assert 1 <= n_refits < 100
        assert (learner.history_.action == "refit").sum() == n_refits

    @pytest.mark.parametrize(
        ("estimator", "n_refits"),
        [
            (GaussianNB(), 0),
            (LaplaceUpdateClassifier(forgetting=0.9), 0),
            (LogisticRegression(), 3),
            (make_pipeline(StandardScaler(), LaplaceUpdateClassifier()), 3),
            (SGDClassifier(loss="log_loss", class_weight="balanced"), 3),
            (LaplaceUpdateClassifier(class_weight="balanced"), 3),
        ],
    )
    def test_estimators_that_cannot_tell_their_drift(self, estimator, n_refits):
        learner = make(estimator, refit_every="auto")
        for i in range(3):
            learner.teach(i, y_pool[i])
        assert (learner.history_.action == "refit").sum() == n_refits

    def test_it_is_the_default(self):
        assert ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X).refit_every == "auto"

    @pytest.mark.parametrize("strategy", [RandomSampling(), MarginSampling()])
    def test_the_network_sees_each_instance_once(self, strategy):
        n_seen = []

        def tanh(rows):
            n_seen.append(len(rows))
            return np.tanh(rows)

        learner = ActiveLearner(
            LaplaceUpdateClassifier(tanh, prior_precision=1.0), strategy, X, random_state=0
        )
        learner.teach([0, 60, 120], y[[0, 60, 120]])
        n_fit = sum(n_seen)
        for i in range(1, 20):
            learner.teach(i, y[i])
        assert sum(n_seen) - n_fit <= 3 + 19


class TestRefitEvery:
    @pytest.mark.parametrize("wrong", [0, -1, 1.5, "always", True])
    def test_refit_every(self, wrong):
        with pytest.raises(ValueError, match="refit_every must be None, 'auto' or an integer >= 1"):
            make(refit_every=wrong)

    def test_an_estimator_that_cannot_update(self):
        with pytest.raises(
            TypeError, match=r"LogisticRegression has no partial_fit.*refit_every='auto' or 1"
        ):
            make(LogisticRegression())

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier, SGDClassifier])
    @pytest.mark.parametrize("refit_every", [None, 3])
    @pytest.mark.parametrize("cold", [False, True])
    def test_balanced_weights_without_refits(self, tmp_path, estimator, refit_every, cold):
        initial = {"X_initial": None, "y_initial": None} if cold else {}
        settings = {"refit_every": refit_every, "journal": tmp_path / "labels.sqlite"} | initial
        with pytest.raises(
            ValueError, match=r"'balanced' .* Pass refit_every='auto' or 1 .* as a dict"
        ):
            make(estimator(class_weight="balanced"), **settings)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.filterwarnings("ignore::RuntimeWarning:sklearn")  # of classes without labels
    @pytest.mark.parametrize("classes", [None, [0, 1, 2]])
    def test_probabilities_that_updates_make_nan(self, tmp_path, classes):
        """Those of Gaussian naive Bayes, where an update has a single instance."""
        settings = {"X_initial": None, "y_initial": None, "classes": classes}
        settings |= {"refit_every": "auto", "journal": tmp_path / "labels.sqlite"}
        learner = make(GaussianNB(), **settings)
        for position in (0, 1, 60, 2, 120, 61, 121, 3):
            learner.teach(position, y_pool[[position]])
            before = told(learner)
            learner.close()
            learner = make(GaussianNB(), **settings)
            assert told(learner) == before
        assert not np.isnan(learner.predict_proba(X)).any()
        assert learner.score(X, y) > 0.8
        learner.close()

    @pytest.mark.parametrize(
        "setting", [{"class_weight": "balanced"}, {"early_stopping": True, "tol": None}]
    )
    @pytest.mark.parametrize("classes", [None, [0, 1, 2]])
    def test_settings_that_updates_do_not_take(self, setting, classes):
        """A label of one class waits for another one, and each is learnt by a refit."""
        estimator = SGDClassifier(loss="log_loss", random_state=0, **setting)
        settings = {"X_initial": None, "y_initial": None, "classes": classes}
        learner = make(estimator, refit_every="auto", **settings).teach(range(20), [0] * 20)
        assert not learner.is_fitted
        learner.teach(range(60, 80), [1] * 20).teach(80, 1)
        rows = [*range(20), *range(60, 81)]
        twin = clone(estimator).fit(X_pool[rows], [0] * 20 + [1] * 21)
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        with pytest.raises(ValueError, match="needs all labels at once, but updates"):
            make(estimator, refit_every=3, **settings)
        with pytest.raises(ValueError, match="needs all labels at once, but the labels behind"):
            make(twin, refit_every="auto", **settings)

    def test_balanced_weights_with_refits(self):
        estimator = LaplaceUpdateClassifier(class_weight="balanced", prior_precision=1.0)
        learner = make(estimator, refit_every=1).teach([5, 6], [0, 0]).teach(60, 1).unlabel(5)
        rows = np.r_[START, POOL[[6, 60]]]
        twin = estimator.fit(X[rows], y[rows])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        with pytest.raises(
            ValueError, match=r"behind a fitted .* unfitted, with its data as X_initial"
        ):
            make(estimator, refit_every=1, X_initial=None, y_initial=None)
        make(estimator, refit_every=1).teach(5, 0)


def test_verbose_tells_of_refits(capsys):
    make(verbose=1).teach([1], [0]).refit()
    assert capsys.readouterr().out.splitlines() == [
        "[ActiveLearner] fitting LaplaceUpdateClassifier on 9 labels",
        "[ActiveLearner] fitting LaplaceUpdateClassifier on 10 labels",
    ]


def test_the_prior_by_scale_goes_by_the_pool():
    """The first label has no variance, and an offset of the features says nothing."""
    far = X + 10
    learner = ActiveLearner(
        LaplaceUpdateClassifier(prior_precision="scale"),
        RandomSampling(),
        far,
        classes=np.unique(y),
        random_state=0,
    )
    learner.teach(0, y[0])
    expected = 0.01 * far.var(axis=0).sum()
    assert learner.estimator_.prior_precision_ == pytest.approx(expected, rel=0.2)
    for i in range(1, 5):
        learner.teach(i, y[i])
    before = learner.estimator_.prior_precision_
    assert learner.refit().estimator_.prior_precision_ == before
    assert learner.estimator.prior_precision == "scale"


@pytest.mark.parametrize("refit_every", [None, 1])
def test_a_refit_is_a_fit_where_a_declared_class_has_no_label(refit_every):
    """``partial_fit`` goes over the data once, ``fit`` until it converges."""
    labelled = np.flatnonzero(y < 2)
    learner = make(
        SGDClassifier(loss="log_loss", random_state=0),
        X_initial=X[labelled],
        y_initial=y[labelled],
        classes=[0, 1, 2],
        refit_every=refit_every,
    )
    expected = SGDClassifier(loss="log_loss", random_state=0).fit(X[labelled], y[labelled])
    np.testing.assert_array_equal(learner.estimator_.coef_, expected.coef_)
    learner.teach(X=X[-1:], y=y[-1:])
    expected.fit(np.r_[X[labelled], X[-1:]], np.r_[y[labelled], y[-1]])
    np.testing.assert_array_equal(learner.estimator_.coef_, expected.coef_)


def test_initial_labels_of_one_class_wait_for_a_second():
    learner = ActiveLearner(
        LaplaceUpdateClassifier(prior_precision=1.0),
        MarginSampling(),
        X,
        X_initial=X[:3],
        y_initial=y[:3],
    )
    assert not learner.is_fitted
    learner.teach(3, y[3]).teach(60, y[60])
    assert learner.is_fitted
    expected = LaplaceUpdateClassifier(prior_precision=1.0).fit(
        X[[0, 1, 2, 3, 60]], y[[0, 1, 2, 3, 60]]
    )
    np.testing.assert_array_equal(learner.predict_proba(X), expected.predict_proba(X))


@pytest.mark.filterwarnings("ignore:The least populated class")
class TestEstimatorsThatNeedMoreLabels:
    """They wait for labels, as all do for those of two classes, and say what for."""

    @pytest.mark.parametrize(
        ("estimator", "n_needed", "n_for_all_classes"),
        [
            (CLOSEST, 5, 5),
            (LinearDiscriminantAnalysis(), 4, 4),
            (CALIBRATED, 8, 9),
            (SEARCH, 7, 7),
            (make_pipeline(PCA(n_components=4), LogisticRegression()), 4, 4),
        ],
    )
    @pytest.mark.parametrize("strategy", [MarginSampling(), CoreSet(), RandomSampling()])
    def test_label_by_label_from_none(
        self, estimator, n_needed, n_for_all_classes, strategy, tmp_path
    ):
        """The journal gives back the same learner wherever it is left."""
        settings = {"X_initial": None, "y_initial": None, "refit_every": 1}
        settings |= {"journal": tmp_path / "labels.sqlite"}
        learner = make(estimator, strategy, **settings)
        for n_labels, position in enumerate([0, 60, 120, 1, 61, 121, 2, 62, 122, 3, 63], start=1):
            learner.query(2)
            waits = n_labels < n_needed
            is_refused = 1 < n_labels < n_for_all_classes
            warns = warns_that_it_waits if is_refused else contextlib.nullcontext
            with warns():
                learner.teach(position, y_pool[[position]])
            assert learner.is_fitted != waits
            assert (learner.history_.action == "refit").any() != waits
            before = told(learner)
            learner.close()
            with warns():
                learner = make(estimator, strategy, **settings)
            assert told(learner) == before

    def test_predictions_before(self):
        learner = make(CLOSEST, X_initial=None, y_initial=None, refit_every=1)
        with warns_that_it_waits() as caught:
            learner.teach([0, 60], [0, 1])
        assert caught[0].filename == __file__
        with pytest.raises(NotFittedError, match="waits for more labels") as caught:
            learner.predict(X)
        assert "n_neighbors" in str(caught.value.__cause__)
        assert learner.teach([1, 2, 3], [0, 0, 0]).predict(X[:1]) == [0]

    def test_initial_labels(self):
        with warns_that_it_waits() as caught:
            learner = make(CLOSEST, X_initial=X[:60:59], y_initial=[0, 1], refit_every=1)
        assert caught[0].filename == make.__code__.co_filename
        assert learner.teach([1, 2, 3], [0, 0, 0]).is_fitted

    def test_a_warning_that_is_an_error(self, tmp_path):
        """Nothing is recorded, and a journal is free for the next one."""
        settings = {"X_initial": None, "y_initial": None, "refit_every": 1}
        learner = make(CLOSEST, journal=tmp_path / "labels.sqlite", **settings).teach(0, 0)
        before = told(learner)
        with pytest.raises(UserWarning, match="waits"):
            learner.teach(60, 1)
        assert told(learner) == before
        with warns_that_it_waits():
            learner.teach(60, 1).close()
        for _ in range(2):
            with pytest.raises(UserWarning, match="waits"):
                make(CLOSEST, journal=tmp_path / "labels.sqlite", **settings)

    @pytest.mark.parametrize(
        "estimator",
        [
            CalibratedClassifierCV(GaussianNB(), cv=3),
            QuadraticDiscriminantAnalysis(reg_param=0.5),
        ],
    )
    def test_a_class_that_appears_late(self, estimator, tmp_path):
        """It is left out of the fit for so long, and labels can still be corrected."""
        settings = {"X_initial": None, "y_initial": None, "refit_every": "auto"}
        settings |= {"journal": tmp_path / "labels.sqlite"}
        known = [*range(6), *range(60, 67)]
        learner = make(estimator, **settings).teach(known, [0] * 6 + [1] * 7)
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner.teach(120, 2)
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner.relabel(66, 0)
        twin = clone(estimator).fit(X_pool[known], [0] * 6 + [1] * 6 + [0])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        before = told(learner)
        learner.close()
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner = make(estimator, **settings)
        assert told(learner) == before
        learner.teach(range(121, 126), [2] * 5)
        assert learner.estimator_.classes_.tolist() == [0, 1, 2]
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner.unlabel(range(120, 125))
        assert learner.labels_.label.tolist() == [0] * 6 + [1] * 6 + [0, 2]

    @pytest.mark.parametrize(
        ("estimator", "match"),
        [
            (make_pipeline(PCA(n_components=5), LogisticRegression()), "n_components=5"),
            (LogisticRegression(C=-1.0), "'C' parameter"),
        ],
    )
    def test_what_no_label_mends_is_refused(self, estimator, match):
        learner = make(estimator, X_initial=None, y_initial=None, refit_every=1).teach(0, 0)
        before = told(learner)
        with pytest.raises(ValueError, match=match):
            learner.teach(60, 1)
        assert told(learner) == before

    def test_bad_instances_are_refused(self):
        learner = make(LogisticRegression(), X_initial=None, y_initial=None, refit_every=1)
        learner.teach(0, 0)
        before = told(learner)
        with pytest.raises(ValueError, match="NaN"):
            learner.teach(X=np.full((1, 4), np.nan), y=[1])
        assert told(learner) == before

    def test_too_few_labels_left_for_a_model_that_is_there(self):
        learner = make(CLOSEST, X_initial=None, y_initial=None, refit_every=1)
        learner.teach([0, 1, 2, 60, 61], [0, 0, 0, 1, 1])
        before = told(learner)
        with pytest.raises(ValueError, match="n_neighbors"):
            learner.unlabel(0)
        assert told(learner) == before

    def test_the_posterior_behind_a_search(self):
        learner = make(SEARCH, X_initial=None, y_initial=None, refit_every=1, strategy=BALD())
        learner.query(3)
        positions = np.r_[0:3, 60:63]
        learner.teach(positions, y_pool[positions])
        assert not set(learner.query(3)) & set(positions)
