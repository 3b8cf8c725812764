import enum
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from scipy.sparse import csr_matrix, issparse
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ShuffleSplit, train_test_split

from laplace_al import LaplaceUpdateClassifier, compare, simulate
from laplace_al.loop.stopping import Budget
from laplace_al.strategies import LookAhead, MarginSampling, RandomSampling

X, y = load_iris(return_X_y=True)
HALVES = {"X_pool": X[::2], "y_pool": y[::2], "X_test": X[1::2], "y_test": y[1::2]}
NAMES = ["data", "estimator", "strategy", "seed"]
STRATEGIES = {"random": RandomSampling(), "margin": MarginSampling()}


def small(estimators=None, strategies=None, data=(X, y), **kwargs):
    data = data if isinstance(data, tuple) else (data,)
    settings = {"budget": 6, "n_initial": 4, "n_repeats": 2, "random_state": 5} | kwargs
    return compare(
        LaplaceUpdateClassifier() if estimators is None else estimators,
        STRATEGIES if strategies is None else strategies,
        *data,
        **settings,
    )


def results_of(frame):
    """All but the seconds."""
    return frame.drop(columns=["query_seconds", "teach_seconds"])


def curve(frame, **names):
    for column, name in names.items():
        frame = frame[frame[column] == name]
    return frame.score.tolist()


class TestCompare:
    def test_scores_that_are_true_or_false_are_kept(self, tmp_path):
        settings = {
            "scoring": lambda estimator, X, y: estimator.score(X, y) > 0.5,
            "results": tmp_path / "results.csv",
        }
        first = small(**settings, n_repeats=1)
        both = small(**settings, n_repeats=2)
        pd.testing.assert_frame_equal(
            both[both.seed == first.seed[0]].reset_index(drop=True), first
        )

    def test_a_set_of_scorers_has_an_order(self):
        frame = small(scoring={"neg_log_loss", "accuracy", "f1_macro"})
        scores = [name for name in frame if name.startswith("score")]
        assert scores == ["score_accuracy", "score_f1_macro", "score_neg_log_loss"]

    def test_an_iterator_of_splits_is_for_all_data_sets(self):
        pairs = [(np.arange(75), np.arange(75, 150)), (np.arange(75, 150), np.arange(75))]
        frame = compare(
            LaplaceUpdateClassifier(),
            RandomSampling(),
            {"a": (X, y), "b": (X, y)},
            cv=iter(pairs),
            budget=5,
            n_initial=4,
            random_state=0,
        )
        assert frame.groupby("data").seed.nunique().to_dict() == {"a": 2, "b": 2}

    @pytest.mark.parametrize("splits", [{"n_repeats": 2}, {"n_repeats": None, "cv": 2}])
    def test_members_of_an_enum_are_their_text(self, splits):
        texts = [f"kind {k}" for k in y]
        kind = enum.Enum("kind", {text: text for text in texts}, type=str)
        members, names = (
            small(data=(X, labels), **splits) for labels in (list(map(kind, texts)), texts)
        )
        pd.testing.assert_frame_equal(results_of(members), results_of(names))

    def test_labels_that_are_none(self):
        for labels, match in [([None, *y[1:]], "got None at position 0"), (y + 0.5, "continuous")]:
            with pytest.raises(ValueError, match=f"y of 'data' .*{match}"):
                small(data=(X, labels))
            for data_set in ((X, labels), (X, labels, X, y), (X, y, X, labels)):
                with pytest.raises(ValueError, match=f"y of 'mine' .*{match}"):
                    small(data={"mine": data_set})

    def test_no_data_set(self):
        with pytest.raises(ValueError, match="X must be a dict of at least one data set"):
            compare(LaplaceUpdateClassifier(), RandomSampling(), {})

    def test_estimators_start_unfitted(self):
        """The splits are made here: what is known already are the test labels."""
        fitted = LaplaceUpdateClassifier().fit(X, y)
        pd.testing.assert_frame_equal(results_of(small(fitted)), results_of(small()))
        assert hasattr(fitted, "posterior_")

    def test_the_table(self):
        frame = small()
        columns = [*NAMES, "n_labels", "score", "query_seconds", "teach_seconds"]
        assert frame.columns.tolist() == columns
        runs = frame[NAMES].drop_duplicates().to_numpy().tolist()
        expected = [(name, seed) for name in STRATEGIES for seed in (5, 6)]
        assert runs == [["data", "LaplaceUpdateClassifier", *run] for run in expected]
        assert frame.n_labels.tolist() == 4 * list(range(4, 11))
        assert frame.index.tolist() == list(range(28))

    def test_each_run_is_a_simulation(self):
        frame = small(test_size=30, scoring="balanced_accuracy")
        for seed in (5, 6):
            split = train_test_split(X, y, test_size=30, stratify=y, random_state=seed)
            X_pool, X_test, y_pool, y_test = split
            for name, strategy in STRATEGIES.items():
                alone = simulate(
                    LaplaceUpdateClassifier(),
                    strategy,
                    X_pool,
                    y_pool,
                    X_test,
                    y_test,
                    budget=6,
                    n_initial=4,
                    scoring="balanced_accuracy",
                    random_state=seed,
                )
                assert curve(frame, strategy=name, seed=seed) == alone.score.tolist()

    def test_arms_are_paired(self):
        start = small()[lambda frame: frame.n_labels == 4].set_index("seed").score
        assert start[5].nunique() == start[6].nunique() == 1
        assert start[5].iloc[0] != start[6].iloc[0]

    @pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
    def test_parallel_is_serial(self, backend):
        serial = small(n_repeats=3)
        with parallel_config(backend=backend):
            parallel = small(n_repeats=3, n_jobs=2)
        pd.testing.assert_frame_equal(results_of(parallel), results_of(serial), check_exact=True)

    def test_the_number_of_threads_is_restored(self):
        seen = []

        def scorer(estimator, X, y):
            seen.append(torch.get_num_threads())
            return 0.0

        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            small(scoring=scorer)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert set(seen) == {1}

    def test_estimators_data_sets_and_settings_of_their_own(self):
        frame = small(
            {
                "laplace": LaplaceUpdateClassifier(),
                "logistic": {"estimator": LogisticRegression(), "refit_every": 1},
            },
            {
                "random": {"strategy": RandomSampling(), "n_instances": 3},
                "margin": {"strategy": MarginSampling(), "refit_every": 2},
            },
            {"iris": (X, y), "sepals": (X[:, :2], y), "halves": (X[::2], y[::2], X[1::2], y[1::2])},
            n_initial=12,
            n_repeats=1,
        )
        arms = frame[NAMES[:3]].drop_duplicates().to_numpy().tolist()
        assert arms == [
            [data, estimator, strategy]
            for data in ("iris", "sepals", "halves")
            for estimator in ("laplace", "logistic")
            for strategy in ("random", "margin")
        ]
        n_labels = frame.set_index(NAMES[:3]).sort_index().n_labels
        assert n_labels["sepals", "laplace", "random"].tolist() == [12, 15, 18]
        alone = simulate(
            LaplaceUpdateClassifier(),
            MarginSampling(),
            *HALVES.values(),
            budget=6,
            n_initial=12,
            refit_every=2,
            random_state=5,
        )
        scores = curve(frame, data="halves", estimator="laplace", strategy="margin")
        assert scores == alone.score.tolist()

    def test_lists_have_the_names_of_their_classes(self):
        frame = small([LaplaceUpdateClassifier()], list(STRATEGIES.values()))
        assert frame.strategy.unique().tolist() == ["RandomSampling", "MarginSampling"]
        frame = small(strategies=[{"strategy": RandomSampling(), "budget": 2}])
        assert frame.strategy.unique().tolist() == ["RandomSampling"]

    def test_splits_of_ones_own(self):
        cv = ShuffleSplit(3, train_size=40, random_state=0)
        frame = small(cv=cv, n_repeats=None)
        assert frame.seed.unique().tolist() == [5, 6, 7]
        pool, test = list(cv.split(X))[1]
        alone = simulate(
            LaplaceUpdateClassifier(),
            MarginSampling(),
            X[pool],
            y[pool],
            X[test],
            y[test],
            budget=6,
            n_initial=4,
            random_state=6,
        )
        assert curve(frame, strategy="margin", seed=6) == alone.score.tolist()

    def test_without_a_random_state_runs_differ(self):
        first, second = (small(random_state=None) for _ in range(2))
        assert first.seed[0] != second.seed[0]
        drawn = [small(random_state=np.random.RandomState(0)) for _ in range(2)]
        pd.testing.assert_frame_equal(*map(results_of, drawn))

    def test_frames(self):
        frame = pd.DataFrame(X, columns=list("abcd"), index=range(150, 300))
        pd.testing.assert_frame_equal(
            results_of(small(data=(frame, pd.Series(y, index=frame.index)))), results_of(small())
        )

    def test_stopping(self):
        frame = small(strategies={"margin": {"strategy": MarginSampling(), "stopping": Budget(6)}})
        assert frame.groupby("seed").n_labels.max().tolist() == [6, 6]

    def test_a_run_that_fails_says_which_it_is(self):
        strategy = {"fails": LookAhead(X, y, y[:3])}
        with pytest.raises(ValueError, match="y_pool") as caught:
            small(strategies=STRATEGIES | strategy)
        note = "In the run data='data', estimator='LaplaceUpdateClassifier', strategy='fails', "
        assert caught.value.__notes__ == [note + "seed=5."]

    def test_progress_only_when_verbose(self, capsys):
        small()
        assert capsys.readouterr().err == ""
        small(verbose=1)
        assert "4/4" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"strategies": 2 * [RandomSampling()]}, "Names of strategies must be distinct"),
            ({"strategies": {}}, "at least one strategy"),
            ({"strategies": {1: RandomSampling()}}, "must be texts of one line; got 1"),
            ({"strategies": {"a\nb": RandomSampling()}}, "must be texts of one line"),
            (
                {"strategies": {"a": {"strategy": RandomSampling(), "n_initial": 3}}},
                r"may hold 'strategy' and any of .*; got also \['n_initial'\]",
            ),
            ({"data": X}, "y is missing"),
            ({"data": ({"a": (X, y)}, y)}, "y must be None if X is a dict"),
            ({"data": {"a": (X, y, X)}}, "'a' must be a tuple .*; got tuple of length 3"),
            ({"data": {"a": (X, y[1:])}}, "inconsistent numbers of samples"),
            ({"data": {"a": (X, y, X, y[1:])}}, "inconsistent numbers of samples"),
            ({"data": {"a": (X, y, X, y)}, "test_size": 0.5}, "are split already"),
            ({"cv": 3}, "cv makes the splits"),
            ({"n_repeats": 0}, "n_repeats == 0, must be >= 1"),
            ({"results": "results.csv", "random_state": None}, "needs an integer random_state"),
        ],
    )
    def test_wrong_arguments(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            small(**kwargs)

    @pytest.mark.parametrize("wrong", [RandomSampling, "margin", {"a": {"n_instances": 3}}])
    def test_what_is_no_strategy(self, wrong):
        with pytest.raises(TypeError, match="strategies must be objects with a method query"):
            small(strategies=wrong)


def dense(rows):
    return rows.toarray() if issparse(rows) else np.asarray(rows)


class Flower:
    def __init__(self, sizes, lock=None):
        self.sizes = sizes
        self.lock = lock


class TestResults:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "results.csv"

    @pytest.fixture
    def n_runs(self, monkeypatch):
        """How many runs were made."""
        count = SimpleNamespace(runs=0)

        def counted(*args, **kwargs):
            count.runs += 1
            return simulate(*args, **kwargs)

        monkeypatch.setattr("laplace_al.experiments.comparison.simulate", counted)
        return count

    def test_what_is_there_is_not_run_again(self, path, n_runs):
        first = small(results=path)
        assert n_runs.runs == 4
        pd.testing.assert_frame_equal(small(results=path), first)
        assert n_runs.runs == 4
        pd.testing.assert_frame_equal(results_of(first), results_of(small()))

    def test_more_seeds_strategies_and_data_sets(self, path, n_runs):
        small(results=path)
        small(results=path, n_repeats=3)
        assert n_runs.runs == 4 + 2
        more = STRATEGIES | {"3 at once": {"strategy": MarginSampling(), "n_instances": 3}}
        frame = small(results=path, strategies=more, n_repeats=3)
        assert n_runs.runs == 4 + 2 + 3
        pd.testing.assert_frame_equal(
            results_of(frame), results_of(small(strategies=more, n_repeats=3))
        )

    def test_no_score_yet(self, path):
        first = small(results=path, n_initial=0)
        assert first.score.isna().sum() == 4
        pd.testing.assert_frame_equal(small(results=path, n_initial=0), first)

    def test_it_goes_on_where_it_was_cut(self, path, n_runs):
        strategies, kwargs = {"random, or so": RandomSampling()}, {"budget": 2, "n_initial": 5}
        whole = results_of(small(strategies=strategies, results=path, **kwargs))
        content = path.read_bytes()
        header = content.index(b"\n") + 1
        first_run = content.index(b" 3/3\n") + 5
        for size, n_missing in [
            *((0, 2), (header - 5, 2), (header, 2), (first_run - 20, 2), (first_run - 1, 2)),
            *((first_run, 1), (first_run + 9, 1), (len(content) - 1, 1), (len(content), 0)),
        ]:
            path.write_bytes(content[:size])
            n_runs.runs = 0
            again = small(strategies=strategies, results=path, **kwargs)
            pd.testing.assert_frame_equal(results_of(again), whole)
            assert n_runs.runs == n_missing
            pd.testing.assert_frame_equal(
                small(strategies=strategies, results=path, **kwargs), again
            )

    def test_a_run_that_fails_leaves_the_others(self, path, n_runs):
        with pytest.raises(ValueError, match="y_pool"):
            small(strategies=STRATEGIES | {"fails": LookAhead(X, y, y[:3])}, results=path)
        n_runs.runs = 0
        small(results=path)
        assert n_runs.runs == 2

    @pytest.mark.parametrize(
        "other",
        [
            {"budget": 7},
            {"scoring": "accuracy"},
            {"refit_every": 1},
            {"estimators": LaplaceUpdateClassifier(prior_precision=2.0)},
            {"strategies": {"random": MarginSampling()}},
            {"strategies": {"random": RandomSampling(random_state=1)}},
            {"data": (X + 1, y)},
            {"data": (X, 2 - y)},
            {"test_size": 0.4},
            {"stopping": Budget(20)},
        ],
    )
    def test_other_settings_are_refused(self, path, other):
        small(results=path)
        content = path.read_bytes()
        match = "has the run data='data', .* made with other settings or data"
        with pytest.raises(ValueError, match=match):
            small(results=path, **other)
        assert path.read_bytes() == content

    @pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, pd.DataFrame, csr_matrix])
    @pytest.mark.parametrize("part", ["X", "y"])
    def test_a_single_other_row_is_refused(self, path, n_runs, kind, part):
        """Of 3000, and none of the 1000 at even distances."""
        names = load_iris().target_names.astype(object)[y]
        A, b = np.tile(X, (20, 1)), np.tile(names, 20)
        estimator = LaplaceUpdateClassifier(dense)

        def compared():
            data = {"iris": (kind(A), b, kind(X), names)}
            return small(estimator, data=data, n_repeats=1, results=path)

        compared()
        A, b = A.copy(), b.copy()
        compared()
        assert n_runs.runs == 2
        if part == "X":
            A[1] += 1
        else:
            b[1] = "virginica"
        with pytest.raises(ValueError, match="made with other settings or data"):
            compared()

    def test_data_that_cannot_be_pickled_is_refused(self, path, n_runs):
        data = [Flower(row, threading.Lock()) for row in X], y
        estimator = LaplaceUpdateClassifier(lambda rows: np.array([row.sizes for row in rows]))
        with pytest.raises(TypeError, match=r"results= cannot .*lock.* or leave results out"):
            small(estimator, data=data, results=path)
        assert n_runs.runs == 0
        small(estimator, data=data)

    def test_instances_of_the_callers_class_are_told_apart(self, path, n_runs):
        estimator = LaplaceUpdateClassifier(lambda rows: np.array([row.sizes for row in rows]))
        for _ in range(2):
            small(estimator, data=([Flower(row) for row in X], y), results=path, n_repeats=1)
        assert n_runs.runs == 2
        with pytest.raises(ValueError, match="made with other settings or data"):
            small(estimator, data=([Flower(row + 1) for row in X], y), results=path, n_repeats=1)

    def test_another_function_needs_another_name(self, path, n_runs):
        """Its body is not read: the name in the dict is the key."""
        names = "the features", "their tanh", "their tanh"
        estimators = [LaplaceUpdateClassifier(f) for f in (lambda A: A, lambda A: np.tanh(A))]
        for name, estimator in zip(names, [*estimators, estimators[1]], strict=True):
            small({name: estimator}, results=path, n_repeats=1)
        assert n_runs.runs == 4

    def test_another_extractor_is_refused(self, path, n_runs):
        for _ in range(2):
            small(LaplaceUpdateClassifier(PCA(2).fit(X)), results=path, n_repeats=1)
        assert n_runs.runs == 2
        with pytest.raises(ValueError, match="made with other settings or data"):
            small(LaplaceUpdateClassifier(PCA(2).fit(X[:100])), results=path, n_repeats=1)

    def test_an_extractor_of_no_known_content_is_refused(self, path, n_runs):
        lock = threading.Lock()
        estimator = LaplaceUpdateClassifier(lambda rows: (lock, rows)[1])
        with pytest.raises(TypeError, match=r"results= cannot .*lock.* or leave results out"):
            small(estimator, results=path)
        assert n_runs.runs == 0

    def test_other_columns_are_refused(self, path):
        small(results=path)
        with pytest.raises(ValueError, match=r"has the columns .* Name another file"):
            small(strategies={"b": RandomSampling()}, results=path, scoring=["accuracy"])
        small(results=path)
