import enum

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score, make_scorer
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, simulate
from laplace_al.loop.stopping import Budget, StablePredictions
from laplace_al.strategies import MarginSampling, RandomSampling

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
            def on_new_model(self, learner):
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
