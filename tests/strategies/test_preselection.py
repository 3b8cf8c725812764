import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import (
    BADGE,
    BAIT,
    BatchBALD,
    CoreSet,
    EntropySampling,
    MarginSampling,
    Preselection,
    ProbCover,
    RandomSampling,
    SequentialBatch,
    TypiClust,
    UncertaintyHerding,
)

X = np.random.default_rng(0).normal(size=(600, 4))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
WRAPPED = [
    BADGE(),
    BAIT(),
    BatchBALD(n_samples=20),
    CoreSet(),
    ProbCover(),
    SequentialBatch(MarginSampling()),
    SequentialBatch(EntropySampling(), labels="predicted"),
    TypiClust(),
    UncertaintyHerding(),
]
CLASSIFIER = LaplaceUpdateClassifier().fit(X[:20], y[:20])


def blocks():
    return (X[start : start + 70] for start in range(0, 600, 70))


@pytest.mark.parametrize("wrapped", WRAPPED, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("by", [None, MarginSampling()])
def test_a_stream_gives_the_answer_of_memory(wrapped, by):
    strategy = Preselection(wrapped, by, n_candidates=50, random_state=1)
    expected, utilities = strategy.query(CLASSIFIER, X, 8, return_utilities=True)
    found, streamed = strategy.query(CLASSIFIER, blocks(), 8, return_utilities=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(streamed, utilities, rtol=1e-7, atol=1e-12)
    assert np.isfinite(utilities).sum() == 50


def test_the_wrapped_strategy_chooses_among_the_first():
    positions = Preselection(CoreSet(), MarginSampling(), n_candidates=50, random_state=0).query(
        CLASSIFIER, X, 10
    )
    first = np.sort(MarginSampling().query(CLASSIFIER, X, 50))
    assert set(positions) <= set(first)
    assert len(set(positions)) == 10


def test_with_all_as_candidates_it_is_the_strategy():
    pre = Preselection(BADGE(), MarginSampling(), n_candidates=600, random_state=0)
    rng = np.random.RandomState(0)
    MarginSampling(random_state=rng).query(CLASSIFIER, X, 600)  # draws the order of ties
    expected = BADGE(random_state=rng).query(CLASSIFIER, X, 9)
    np.testing.assert_array_equal(pre.query(CLASSIFIER, X, 9), expected)


def test_labelled_instances_inside_and_outside_the_candidates():
    learner = ActiveLearner(
        LaplaceUpdateClassifier(), RandomSampling(), X, X_initial=X[:5] + 0.1, y_initial=y[:5]
    ).teach(np.arange(30, 60), y[30:60])
    strategy = Preselection(CoreSet(), MarginSampling(), n_candidates=50, random_state=0)
    candidates = np.ones(600, dtype=bool)
    candidates[30:60] = False
    in_memory = strategy.query(learner, X, 6, candidates=candidates)
    streamed = strategy.query(learner, blocks(), 6, candidates=candidates)
    np.testing.assert_array_equal(in_memory, streamed)
    view_of_candidates = np.sort(
        MarginSampling(random_state=0).query(learner, X, 50, candidates=candidates)
    )
    labelled = np.concatenate([X[:5] + 0.1, X[30:60]])
    farthest = view_of_candidates[
        np.linalg.norm(X[view_of_candidates, None] - labelled, axis=2).min(axis=1).argmax()
    ]
    assert in_memory[0] == farthest


def test_inside_a_batch_that_is_built_label_by_label():
    strategy = SequentialBatch(
        Preselection(BADGE(), MarginSampling(), n_candidates=40), random_state=0
    )
    positions = strategy.query(CLASSIFIER, X, 6)
    assert len(set(positions)) == 6


def test_text_goes_through_a_pipeline():
    texts = np.array(["good fine", "bad", "fine", "good", "awful bad", "awful"], dtype=object)
    pipeline = make_pipeline(CountVectorizer(), LogisticRegression())
    pipeline.fit(texts.tolist(), [1, 0, 1, 1, 0, 0])
    strategy = Preselection(PowerLess(), MarginSampling(), n_candidates=3, random_state=0)
    pool = (list(part) for part in (texts[:2], texts[2:]))
    found = strategy.query(pipeline, pool, 2)
    np.testing.assert_array_equal(found, strategy.query(pipeline, texts.tolist(), 2))


class PowerLess(EntropySampling):
    """Compares nothing, and says so."""

    is_pointwise = False


def test_more_instances_than_candidates():
    positions = Preselection(CoreSet(), n_candidates=5, random_state=0).query(CLASSIFIER, X, 20)
    assert len(set(positions)) == 20


def test_by_must_be_pointwise():
    with pytest.raises(ValueError, match=r"by must score each instance on its own.*got CoreSet"):
        Preselection(CoreSet(), CoreSet()).query(CLASSIFIER, X)


@pytest.mark.parametrize("wrong", [{"by": "margin"}, {"n_candidates": 0}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' parameter of Preselection"):
        Preselection(CoreSet(), **wrong).query(CLASSIFIER, X)


@pytest.mark.parametrize("strategy", [TypiClust(), CoreSet(), ProbCover(radius=0.5)])
def test_what_needs_no_model_chooses_before_there_is_one(strategy):
    wrapped = Preselection(strategy, n_candidates=600, random_state=0)
    learner = ActiveLearner(LaplaceUpdateClassifier(), wrapped, X)
    by_chance = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(random_state=0), X)
    assert set(learner.query(8)) != set(by_chance.query(8))
