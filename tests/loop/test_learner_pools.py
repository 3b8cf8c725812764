import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from learners import POOL, START, X, X_pool, make, y, y_pool
from scipy import sparse
from sklearn import config_context
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, strategies
from laplace_al.loop.stopping import is_open
from laplace_al.strategies import (
    BADGE,
    BALD,
    CoreSet,
    MarginSampling,
    Preselection,
    RandomSampling,
    TypiClust,
)


class TestKeptPool:
    @pytest.mark.parametrize("strategy", [MarginSampling(), BALD(n_samples=20), CoreSet()])
    @pytest.mark.parametrize(
        "estimator",
        [LaplaceUpdateClassifier(), LaplaceUpdateClassifier(np.tanh, memory_size=None)],
    )
    def test_choices_are_those_of_a_pool_scored_anew(self, strategy, estimator):
        learner = make(estimator, strategy.set_params(random_state=0))
        for step in range(6):
            expected = strategy.query(
                SimpleNamespace(
                    estimator=learner.estimator_, query=None, instances_=learner.instances_
                ),
                X_pool,
                3,
                candidates=is_open(learner),
            )
            chosen = learner.query(3)
            np.testing.assert_array_equal(chosen, expected)
            learner.teach(chosen[0], y_pool[chosen[0]])
            if step == 2:
                learner.relabel(chosen[0], 1)
            if step == 3:
                learner.teach(X=X[:1], y=y[:1])
            if step == 4:
                learner.refit()

    def test_an_extractor_sees_each_instance_of_the_pool_once(self):
        seen = []

        def extract(rows):
            seen.append(len(rows))
            return np.tanh(rows)

        learner = make(LaplaceUpdateClassifier(extract), refit_every=4)
        learner.query()
        seen.clear()
        for _ in range(10):
            position = learner.query()
            learner.teach(position, y_pool[position])
        assert sum(seen) == len(START)  # the initial ones, at the first refit

    def test_pipelines_transform_the_pool_anew_after_each_fit(self):
        learner = make(make_pipeline(StandardScaler(), LaplaceUpdateClassifier()), refit_every=1)
        for _ in range(3):
            position = learner.query()
            direct = MarginSampling().query(learner.estimator_, X_pool, 141, return_utilities=True)
            direct[1][learner.labels_.position] = -1
            assert direct[1][position[0]] == direct[1].max()
            learner.teach(position, y_pool[position])


class TestColumns:
    """Features that are extracted before a fit are told by their place alone."""

    frame = pd.DataFrame(X[START], columns=list("abcd"))

    @pytest.mark.parametrize("prior_precision", [1.0, "scale"])
    @pytest.mark.parametrize("columns", ["dcba", "abcx", "abc"])
    def test_initial_instances_have_those_of_the_pool(self, prior_precision, columns):
        initial = self.frame.reindex(columns=list(columns), fill_value=0.0)
        with pytest.raises(ValueError, match=r"X_initial must have the columns of X_pool"):
            ActiveLearner(
                LaplaceUpdateClassifier(prior_precision=prior_precision),
                MarginSampling(),
                self.frame,
                X_initial=initial,
                y_initial=y[START],
            )

    def test_initial_instances_have_their_number(self):
        with pytest.raises(ValueError, match=r"X_initial must have rows of shape \(4,\).*\(3,\)"):
            make(X_initial=X[START, :3])

    @pytest.mark.parametrize("strategy", [CoreSet(), MarginSampling()])
    def test_a_fitted_estimator_knows_them(self, strategy):
        clf = LaplaceUpdateClassifier().fit(self.frame, y[START])
        learner = ActiveLearner(clf, strategy, self.frame[list("dcba")])
        with pytest.raises(ValueError, match="must be in the same order"):
            learner.query()

    def test_a_column_without_a_name(self):
        pool = pd.DataFrame(X, columns=["a", np.nan, "c", "d"])
        rows = {"X_initial": pool[::50], "y_initial": y[::50]}
        learner = ActiveLearner(LogisticRegression(), RandomSampling(), pool, refit_every=1)
        assert not learner.is_fitted
        with pytest.raises(TypeError, match="Feature names"):
            ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), pool, **rows)

    def test_images_of_several_sizes(self):
        pool = np.zeros((9, 4, 4))
        means = LaplaceUpdateClassifier(lambda images: np.array([[i.mean(), 1] for i in images]))
        images = [np.zeros((4, 4)), np.ones((5, 5))]
        learner = ActiveLearner(means, RandomSampling(), pool, X_initial=images, y_initial=[0, 1])
        assert learner.is_fitted

    def test_others_tell_columns_by_name(self):
        by_name = make_column_transformer((StandardScaler(), ["a", "d"]))
        learner = ActiveLearner(
            make_pipeline(by_name, GaussianNB()),
            MarginSampling(),
            self.frame,
            X_initial=self.frame[list("dab")],
            y_initial=y[START],
            refit_every=1,
        )
        assert len(learner.query(2)) == 2


class TestWaiting:
    """What is taken before there is a model can be learnt once there is one."""

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [([[1.0, 2.0]], r"rows of shape \(4,\)"), ([[1.0, 2.0, 3.0, np.nan]], "NaN")],
    )
    def test_instances_that_no_fit_would_take(self, wrong, match, tmp_path):
        settings = {"X_initial": None, "y_initial": None, "journal": tmp_path / "labels.sqlite"}
        with make(**settings) as learner:
            learner.teach(0, "a")
            before = len(learner.history_)
            with pytest.raises(ValueError, match=match):
                learner.teach(X=wrong, y=["a"])
            assert len(learner.history_) == before
            learner.teach(60, "b")
        with make(**settings) as learner:
            assert learner.labels_.label.tolist() == ["a", "b"]

    def test_a_row_of_the_pool_with_nan(self, tmp_path):
        """It is refused before anybody labels, or writes a journal."""
        pool, path = X.copy(), tmp_path / "labels.sqlite"
        pool[3, 1] = np.nan
        with pytest.raises(ValueError, match=r"NaN or infinity in 1 of its 150 rows: \[3\]"):
            ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), pool, journal=path)
        assert not path.exists()

    @pytest.mark.parametrize(
        "strategy", [MarginSampling(), BALD(), BADGE(), CoreSet(), TypiClust()]
    )
    def test_features_with_nan(self, strategy):
        """They are refused at the first query."""
        learner = ActiveLearner(LaplaceUpdateClassifier(np.log), strategy, X - X.min(axis=0) - 0.5)
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="the first at row 0"):
            learner.query()

    def test_initial_instances(self):
        with pytest.raises(ValueError, match="NaN"):
            make(X_initial=np.full((2, 4), np.nan), y_initial=[0, 0])


@pytest.mark.parametrize(
    "strategy", [MarginSampling(), CoreSet(), BALD(), Preselection(BADGE(), n_candidates=30)]
)
@pytest.mark.parametrize("extractor", [None, np.square])
def test_a_pool_in_a_file_is_as_one_in_memory(strategy, extractor, tmp_path):
    """HDF5 takes positions in increasing order only; other arrays in files take only slices."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "X.h5", "w") as file:
        pools = file.create_dataset("X", data=X_pool), X_pool
        seen = []
        for pool in pools:  # the second one resumes the journal of the first
            settings = LaplaceUpdateClassifier(extractor), strategy, pool
            path = tmp_path / "labels.sqlite"
            with ActiveLearner(*settings, random_state=0, journal=path) as learner:
                positions = learner.query(5)
                learner.teach(positions, y_pool[positions]).teach(X=pool[:2], y=[0, 1])
                learner.relabel(positions[:1], [2]).unlabel(positions[1])
                seen.append(learner.query(5).tolist())
                assert len(learner.instances_) == len(learner.labels_)
        with ActiveLearner(*settings[:2], pools[0], random_state=0, journal=path) as learner:
            assert learner.query(5).tolist() == seen[1]


class TestTensorPools:
    @pytest.mark.parametrize("kind", ["bfloat16", "gradient", "float32"])
    @pytest.mark.parametrize("strategy", [MarginSampling(), CoreSet(), TypiClust()])
    @pytest.mark.parametrize("prior_precision", [1.0, "scale"])
    def test_as_the_classifier_takes_them(self, kind, strategy, prior_precision):
        pool = torch.tensor(X_pool, dtype=torch.float32)
        pool = pool.bfloat16() if kind == "bfloat16" else pool
        pool = pool.requires_grad_() if kind == "gradient" else pool
        learner = ActiveLearner(
            LaplaceUpdateClassifier(prior_precision=prior_precision),
            strategy,
            pool,
            random_state=0,
        )
        learner.teach([0, 50, 100], [0, 1, 2]).query(2)
        learner.teach(X=pool[:1] * 2, y=[1])
        assert len(learner.query(2)) == 2


@pytest.mark.parametrize("extractor", [None, nn.Linear(4, 3).double()])
def test_tensors_are_taught_by_value(extractor):
    tensors = torch.from_numpy(X)
    learner = ActiveLearner(
        LaplaceUpdateClassifier(extractor, prior_precision=1.0),
        MarginSampling(),
        tensors[POOL],
        X_initial=tensors[START],
        y_initial=y[START],
    )
    learner.query()
    learner.teach(X=tensors[10:13], y=y[10:13]).refit()
    rows = [*START, 10, 11, 12]
    twin = LaplaceUpdateClassifier(extractor, prior_precision=1.0).fit(X[rows], y[rows])
    np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-12)
    assert len(learner.instances_) == len(rows)


@pytest.mark.parametrize("strategy", [BADGE(), CoreSet()])
def test_frames_as_output_are_no_frames_inside(strategy):
    extractor = StandardScaler().fit(X)

    def queried():
        learner = make(LaplaceUpdateClassifier(extractor, prior_precision="scale"), strategy)
        return learner.teach([0, 60], y_pool[[0, 60]]).query(3).tolist()

    expected = queried()
    with config_context(transform_output="pandas"):
        assert queried() == expected


def test_an_array_pool_beside_initial_frames():
    frame = pd.DataFrame(X[START], columns=list("abcd"))
    learner = make(LogisticRegression(), X_initial=frame, refit_every=1)
    learner.teach(3, y_pool[3])
    expected = LogisticRegression().fit(np.r_[X[START], X_pool[[3]]], np.r_[y[START], y_pool[[3]]])
    named = pd.DataFrame(X, columns=list("abcd"))
    np.testing.assert_allclose(learner.predict_proba(named), expected.predict_proba(X))


def test_a_sparse_pool_without_rows():
    with pytest.raises(TypeError, match=r"coo_matrix, which has no rows to take. Pass X_pool.toc"):
        ActiveLearner(LogisticRegression(), MarginSampling(), sparse.coo_matrix(X), refit_every=1)


def test_a_sparse_pool():
    pool = sparse.csr_matrix(X)
    learner = ActiveLearner(
        LogisticRegression(),
        MarginSampling(),
        pool,
        X_initial=pool[START],
        y_initial=y[START],
        refit_every=1,
    )
    for i in (10, 70):
        learner.teach(i, y[i])
    learner.teach(X=pool[[20]], y=[0]).relabel(10, 1).refit()
    assert sparse.issparse(learner.instances_)
    rows = [*START, 10, 70, 20]
    labels = np.r_[y[START], 1, y[70], 0]
    expected = LogisticRegression().fit(pool[rows], labels)
    np.testing.assert_allclose(learner.predict_proba(X), expected.predict_proba(X), atol=1e-8)


@pytest.mark.parametrize(
    "give",
    [
        lambda X: ActiveLearner(GaussianNB(), RandomSampling(), X, refit_every=1),
        lambda X: make(X_initial=X, y_initial=y),
        lambda X: make().teach(X=X[:2], y=[0, 1]),
    ],
)
def test_masked_instances_are_refused(give):
    give(np.ma.array(X))  # where none is masked
    with pytest.raises(ValueError, match=r"^X\w* has masked values, .* fill them: X\w*.filled"):
        give(np.ma.array(X, mask=X[0, 0] == X))


class Passes(nn.Module):
    """A network that writes down how many inputs each pass has."""

    def __init__(self):
        super().__init__()
        self.sizes, self.head = [], nn.Linear(4, 3).double()

    def forward(self, X):
        self.sizes.append(len(X))
        return self.head(X)


def test_what_is_taught_by_value_is_extracted_once():
    network = Passes()
    learner = make(LaplaceUpdateClassifier(network, prior_precision=1.0))
    learner.query()
    learner.teach(X=X[10:20], y=y[10:20])
    network.sizes.clear()
    learner.refit().teach(X=X[20:24], y=y[20:24])
    learner.refit().refit()
    assert sorted(network.sizes) == [4, len(START)]
    rows = [*START, *range(10, 24)]
    twin = LaplaceUpdateClassifier(network, prior_precision=1.0).fit(X[rows], y[rows])
    np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("name", ["ExpectedErrorReduction", "EPIG", "LookAhead"])
def test_points_of_a_strategy_are_extracted_once(name):
    network, points = Passes(), X[::10].copy()
    given = (points, y[::10], y_pool) if name == "LookAhead" else (points,)
    learner = make(LaplaceUpdateClassifier(network), getattr(strategies, name)(*given))
    learner.query()
    assert network.sizes.count(len(points)) == 1
    learner.teach(0, y_pool[0])
    network.sizes.clear()
    learner.query()
    assert not network.sizes


def test_the_pool_of_a_prior_by_scale_is_extracted_once():
    network = Passes()
    learner = ActiveLearner(
        LaplaceUpdateClassifier(network, prior_precision="scale"),
        MarginSampling(),
        X_pool,
        classes=range(3),
        random_state=0,
    )
    for _ in range(5):
        i = learner.query()[0]
        learner.teach(i, y_pool[i])
    learner.refit().query()
    assert network.sizes.count(len(X_pool)) == 1
    assert sum(network.sizes) <= len(X_pool) + 10  # and a few rows to look at


class TestNetworkThatChanges:
    @pytest.mark.parametrize("call", ["query", "teach", "relabel", "refit", "predict"])
    def test_it_is_noticed(self, call):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        learner = ActiveLearner(
            LaplaceUpdateClassifier(network, prior_precision=1.0),
            MarginSampling(),
            X[POOL],
            X_initial=X[START],
            y_initial=y[START],
            refit_every=None,
        )
        for _ in range(2):
            i = learner.query()[0]
            learner.teach(i, y[POOL][i])
        calls = {
            "query": lambda: learner.query(),
            "teach": lambda: learner.teach([20], [1]),
            "relabel": lambda: learner.relabel([i], [2]),
            "refit": lambda: learner.refit(),
            "predict": lambda: learner.predict(X),
        }
        before, labels = copy.deepcopy(network.state_dict()), learner.labels_
        expected = learner.query(5)
        torch.optim.Adam(network.parameters(), fused=True).step()  # without gradients: no change
        np.testing.assert_array_equal(learner.query(5), expected)
        network(torch.ones(2, 4).double()).sum().backward()
        torch.optim.Adam(network.parameters(), fused=True).step()
        with pytest.raises(RuntimeError, match=r"other weights .* make a new ActiveLearner"):
            calls[call]()
        pd.testing.assert_frame_equal(learner.labels_, labels)
        network.load_state_dict(before)
        np.testing.assert_array_equal(learner.query(5), expected)
        calls[call]()
