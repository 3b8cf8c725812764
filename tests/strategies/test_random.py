import numpy as np
from scipy.stats import chisquare

from laplace_al.strategies import RandomSampling


def test_every_instance_is_as_likely():
    strategy = RandomSampling(random_state=np.random.RandomState(0))
    drawn = np.concatenate([strategy.query(None, np.zeros((10, 1)), 3) for _ in range(2000)])
    assert chisquare(np.bincount(drawn)).pvalue > 0.01


def test_it_needs_nothing_of_the_learner():
    assert len(RandomSampling().query(object(), ["text", "more text"], 2)) == 2
