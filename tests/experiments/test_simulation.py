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
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import ShuffleSplit, train_test_split
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, simulate
from laplace_al.experiments.simulation import compare
from laplace_al.loop.stopping import Budget, StablePredictions
from laplace_al.strategies import LookAhead, MarginSampling, RandomSampling

X, y = load_iris(return_X_y=True)
HALVES = {"X_pool": X[::2], "y_pool": y[::2], "X_test": X[1::2], "y_test": y[1::2]}


def run(estimator=None, strategy=None, **kwargs):
    settings = HALVES | {"budget": 20, "n_initial": 4, "random_state": 0} | kwargs
    return simulate(
        estimator or LaplaceUpdateClassifier(), strategy or MarginSampling(), **settings
    )


def test_the_table():
    table = run()
    assert table.columns.tolist() == ["n_labels", "score", "query_seconds", "teach_seconds"]
    assert table.n_labels.tolist() == list(range(4, 25))
    assert table.query_seconds[0] == 0
    assert (table.teach_seconds > 0).all()
    assert table.score.iloc[-1] > 0.9


class Kind(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    SETOSA = "setosa"
    VERSICOLOR = "versicolor"
    VIRGINICA = "virginica"


MEMBERS = [list(Kind)[k] for k in y]
TEXTS = [str.__str__(member) for member in MEMBERS]


def test_members_of_an_enum_are_their_text():
    members = run(y_pool=MEMBERS[::2], y_test=MEMBERS[1::2])
    names = run(y_pool=TEXTS[::2], y_test=TEXTS[1::2])
    assert members.score.tolist() == names.score.tolist()
    settings = {"budget": 5, "n_initial": 5, "n_repeats": 2, "random_state": 0}
    for given in (settings, settings | {"n_repeats": None, "cv": 2}):
        curves = [
            compare(LaplaceUpdateClassifier(), RandomSampling(), X, labels, **given).score.tolist()
            for labels in (MEMBERS, TEXTS)
        ]
        assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (lambda y: [None, *y[1:]], "must hold labels; got None at position 0"),
        (lambda y: ["a", np.nan, *map(str, y[2:])], "must hold labels; got nan at position 1"),
        (lambda y: np.ma.array(y, mask=np.arange(len(y)) == 2), "got a masked label at position 2"),
        (lambda y: ["a", *y[1:]], "must hold labels of one kind"),
        (lambda y: y + 0.5, "continuous"),
    ],
)
def test_labels_that_are_none(labels, match):
    for name in ("y_pool", "y_test"):
        with pytest.raises(ValueError, match=f"{name} .*{match}"):
            run(**{name: labels(HALVES[name])})
    with pytest.raises(ValueError, match=f"y_initial .*{match}"):
        run(X_initial=X, y_initial=labels(y))
    with pytest.raises(ValueError, match=f"y of 'data' .*{match}"):
        compare(LaplaceUpdateClassifier(), RandomSampling(), X, labels(y))
    for data_set in ((X, labels(y)), (X, labels(y), X, y), (X, y, X, labels(y))):
        with pytest.raises(ValueError, match=f"y of 'mine' .*{match}"):
            compare(LaplaceUpdateClassifier(), RandomSampling(), {"mine": data_set})


def test_initial_labels_of_another_kind():
    with pytest.raises(ValueError, match="y_initial must hold labels of the same kind as those"):
        run(X_initial=X, y_initial=y.astype(str))


def test_it_is_the_loop_by_hand():
    rng = np.random.RandomState(3)
    initial = rng.permutation(75)[:4]
    learner = ActiveLearner(
        LaplaceUpdateClassifier(),
        MarginSampling(),
        HALVES["X_pool"],
        classes=[0, 1, 2],
        random_state=rng,
    )
    learner.teach(initial, HALVES["y_pool"][initial])
    scores = [learner.score(HALVES["X_test"], HALVES["y_test"])]
    for _ in range(4):
        positions = learner.query(5)
        learner.teach(positions, HALVES["y_pool"][positions])
        scores.append(learner.score(HALVES["X_test"], HALVES["y_test"]))
    assert run(n_instances=5, random_state=3).score.tolist() == scores


@pytest.mark.parametrize(
    ("n_instances", "score_every", "expected"),
    [
        (5, None, [4, 9, 14, 19, 24]),
        (1, 10, [4, 14, 24]),
        (7, None, [4, 11, 18, 24]),
        (3, 10, [4, 16, 24]),
    ],
)
def test_when_it_scores(n_instances, score_every, expected):
    table = run(strategy=RandomSampling(), n_instances=n_instances, score_every=score_every)
    assert table.n_labels.tolist() == expected


def test_the_same_seed_gives_the_same_run_and_the_same_start():
    first, second, other = (run(strategy=RandomSampling(), random_state=s) for s in (0, 0, 1))
    pd.testing.assert_series_equal(first.score, second.score)
    assert not first.score.equals(other.score)
    assert run().score[0] == first.score[0]


def test_initial_labels_outside_the_pool():
    start = {"X_initial": X[1:150:50], "y_initial": y[1:150:50], "n_initial": 0}
    assert run(n_instances=10, **start).n_labels.tolist() == [3, 13, 23]


def test_from_nothing():
    table = run(strategy=RandomSampling(), n_initial=0, n_instances=10)
    assert table.n_labels.tolist() == [0, 10, 20]
    assert table.score.isna().tolist() == [True, False, False]


def test_no_score_while_one_class_is_known():
    order = np.argsort(HALVES["y_pool"], kind="stable")  # the first 25 are of one class
    table = run(
        LogisticRegression(),
        RandomSampling(),
        X_pool=HALVES["X_pool"][order][:26],
        y_pool=HALVES["y_pool"][order][:26],
        n_initial=1,
        budget=None,
        refit_every=1,
    )
    assert table.n_labels.tolist() == list(range(1, 27))
    assert table.score.isna().iloc[0]
    assert table.score.notna().iloc[-1]
    assert (table.score.isna().astype(int).diff().dropna() <= 0).all()


def test_a_fitted_estimator_has_a_score_before_any_label():
    fitted = LaplaceUpdateClassifier().fit(X[1::50], y[1::50])
    table = run(fitted, n_initial=0)
    assert table.n_labels[0] == 0
    assert table.score[0] == fitted.score(HALVES["X_test"], HALVES["y_test"])


def test_without_a_budget_until_the_pool_is_empty():
    assert run(budget=None, n_instances=10).n_labels.iloc[-1] == 75


def test_any_scorer_and_any_classifier():
    loss = run(LaplaceUpdateClassifier(predictive="plug_in"), scoring="neg_log_loss")
    assert loss.score.iloc[-1] > loss.score[0]
    assert (loss.score < 0).all()
    table = run(LogisticRegression(), refit_every=1, n_initial=30, n_instances=20)
    assert table.score.iloc[-1] > 0.8


@pytest.mark.parametrize(
    "scoring",
    [
        ["accuracy", "neg_log_loss"],
        {"accuracy": make_scorer(accuracy_score), "neg_log_loss": "neg_log_loss"},
        lambda estimator, X, y: {"accuracy": estimator.score(X, y), "neg_log_loss": 0},
    ],
)
def test_several_scorers(scoring):
    table = run(LaplaceUpdateClassifier(), scoring=scoring, n_instances=10)
    scores = ["score_accuracy", "score_neg_log_loss"]
    assert table.columns.tolist() == ["n_labels", *scores, "query_seconds", "teach_seconds"]
    assert table.score_accuracy.tolist() == run(n_instances=10).score.tolist()


class TestStopping:
    def test_the_curve_ends_with_a_score_of_the_last_model(self):
        table = run(stopping=Budget(17), score_every=10)
        assert table.n_labels.tolist() == [4, 14, 17]
        assert table.score.iloc[-1] == run().score[13]

    def test_the_first_of_several_rules(self):
        assert run(stopping=[Budget(12), Budget(9)]).n_labels.iloc[-1] == 9

    def test_at_once(self):
        assert run(stopping=Budget(4)).n_labels.tolist() == [4]

    def test_rules_of_the_caller_see_nothing(self):
        rule = StablePredictions()
        first, second = run(stopping=rule, budget=None), run(stopping=rule, budget=None)
        assert vars(rule) == rule.get_params()
        assert first.score.tolist() == second.score.tolist()
        assert len(first) < 72

    def test_every_rule_sees_every_round(self):
        seen = []

        class Watch(StablePredictions):
            def observe(self, learner):
                seen.append(len(learner.labels_))

        run(stopping=[Budget(7), Watch()])
        assert seen == [4, 5, 6, 7]

    @pytest.mark.parametrize("wrong", [5, StablePredictions, [Budget(3), "never"]])
    def test_what_cannot_be_asked(self, wrong):
        with pytest.raises(TypeError, match="stopping must be an object with a method should_stop"):
            run(stopping=wrong)


def test_refits_follow_their_policy():
    refitted, updated = run(refit_every=20), run(refit_every=None)
    assert refitted.score.iloc[:-1].tolist() == updated.score.iloc[:-1].tolist()


@pytest.mark.parametrize("budget", [0, -1, 72])
def test_a_budget_beyond_the_pool(budget):
    with pytest.raises(ValueError, match=rf"budget must be between 1 and 71.*; got {budget}"):
        run(budget=budget)


def test_more_initial_labels_than_the_pool_has():
    with pytest.raises(ValueError, match="n_initial must be at most 75, the size of the pool; got"):
        run(budget=None, n_initial=76)


def test_lengths():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        run(y_pool=y[:10])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        run(y_test=y[:10])


@pytest.mark.parametrize("name", ["n_instances", "score_every", "n_initial"])
def test_counts(name):
    with pytest.raises(ValueError, match=f"{name} == -1, must be >="):
        run(**{name: -1})
    with pytest.raises(TypeError, match=f"{name} must be an instance of int"):
        run(**{name: 1.5})


def test_progress_only_when_verbose(capsys):
    run()
    assert capsys.readouterr().err == ""
    run(verbose=1)
    assert "20/20" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    "estimator", [SGDClassifier(loss="log_loss", random_state=0), LogisticRegression()]
)
@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "roc_auc_ovr"])
def test_scores_of_probabilities_before_all_classes_are_seen(estimator, scoring):
    for seed in range(3):
        settings = {"n_initial": 2, "refit_every": 1, "random_state": seed}
        table = run(estimator, strategy=RandomSampling(), scoring=scoring, **settings)
        assert np.isfinite(table.score.iloc[5:]).all()


def test_scores_of_probabilities_beside_classes_that_nobody_has():
    settings = {"n_initial": 9, "refit_every": 1, "scoring": "neg_log_loss"}
    found = run(LogisticRegression(max_iter=1000), classes=[0, 1, 2, 3], **settings)
    expected = run(LogisticRegression(max_iter=1000), **settings)
    assert found.score.tolist() == expected.score.tolist()


def test_scores_are_numbers():
    found = run(scoring=lambda estimator, X, y: estimator.score(X, y) > 0.5).score
    assert set(found.dropna()) <= {0.0, 1.0}
    for wrong in (None, "good"):
        with pytest.raises(ValueError, match="scoring must give numbers; got"):
            run(scoring=lambda estimator, X, y, wrong=wrong: wrong)


@pytest.mark.parametrize("scoring", [["accuracy", "f1_macro"], {"a": "accuracy", "b": "f1_macro"}])
def test_several_scores_have_their_columns_without_a_model(scoring):
    table = run(scoring=scoring, n_initial=0, stopping=Budget(0))
    assert [name for name in table if name.startswith("score")] == [f"score_{n}" for n in scoring]
    assert table.filter(like="score").isna().all(axis=None)


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
    def __init__(self, sizes):
        self.sizes = sizes


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

        monkeypatch.setattr("laplace_al.experiments.simulation.simulate", counted)
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

    def test_data_of_no_known_content_is_refused(self, path, n_runs):
        data = [Flower(row) for row in X], y
        estimator = LaplaceUpdateClassifier(lambda rows: np.array([row.sizes for row in rows]))
        with pytest.raises(TypeError, match=r"objects of type Flower .* or leave results out"):
            small(estimator, data=data, results=path)
        assert n_runs.runs == 0
        small(estimator, data=data)

    def test_another_extractor_is_refused(self, path, n_runs):
        for _ in range(2):
            small(LaplaceUpdateClassifier(PCA(2).fit(X)), results=path, n_repeats=1)
        assert n_runs.runs == 2
        with pytest.raises(ValueError, match="made with other settings or data"):
            small(LaplaceUpdateClassifier(PCA(2).fit(X[:100])), results=path, n_repeats=1)

    def test_an_extractor_of_no_known_content_is_refused(self, path, n_runs):
        lock = threading.Lock()
        estimator = LaplaceUpdateClassifier(lambda rows: (lock, rows)[1])
        with pytest.raises(TypeError, match=r"object of type lock .* or leave results out"):
            small(estimator, results=path)
        assert n_runs.runs == 0

    def test_other_columns_are_refused(self, path):
        small(results=path)
        with pytest.raises(ValueError, match=r"has the columns .* Name another file"):
            small(strategies={"b": RandomSampling()}, results=path, scoring=["accuracy"])
        small(results=path)


@pytest.mark.parametrize("scoring", [None, "accuracy", ["accuracy", "neg_log_loss"]])
def test_a_test_set_is_extracted_once(scoring):
    sizes = []

    def network(X):
        sizes.append(len(X))
        return np.tanh(X)

    halves = HALVES | {"X_test": X[1::2][10:51], "y_test": y[1::2][10:51]}
    settings = {"budget": 6, "n_initial": 20, "scoring": scoring}
    curve = run(LaplaceUpdateClassifier(network), **halves, **settings)
    assert sizes.count(41) == 1
    for name in ("X_pool", "X_test"):
        halves[name] = np.tanh(halves[name])
    plain = run(**halves, **settings)
    scores = [name for name in curve if name.startswith("score")]
    pd.testing.assert_frame_equal(curve[scores], plain[scores])


def test_a_scorer_of_the_callers_sees_the_test_set_itself():
    def scorer(estimator, given, labels):
        assert given is test
        return estimator.score(given, labels)

    test = HALVES["X_test"]
    run(LaplaceUpdateClassifier(np.tanh), budget=2, n_initial=20, scoring=scorer)


@pytest.mark.parametrize("from_estimator", [True, False])
def test_a_trained_head_with_classes_in_the_order_of_its_outputs(from_estimator):
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double()
    outputs = network(torch.from_numpy(X)).detach().numpy().argmax(axis=1)
    names = np.array(["virginica", "setosa", "versicolor"])
    clf = LaplaceUpdateClassifier(network, head="pretrained", prior_precision=1e9)
    given = {"classes": names}
    curve = simulate(
        clf.set_params(**given) if from_estimator else clf,
        RandomSampling(),
        X,
        names[np.arange(150) % 3],
        X,
        names[outputs],
        budget=3,
        random_state=0,
        **({} if from_estimator else given),
    )
    assert (curve.score.dropna() == 1).all()
