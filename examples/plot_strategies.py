"""
How each strategy chooses, on one plane
=======================================

The pool is three clouds of points. Twelve points are labelled (crosses), and a classifier has
learnt these labels. Each picture shows how one strategy sees the pool: the darker a point, the
higher the strategy ranks its label. The six points that the strategy would query are ringed, and
the lines are the decision boundaries of the classifier. :doc:`/strategies` has the formulas.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import rankdata
from sklearn.datasets import make_blobs
from sklearn.kernel_approximation import RBFSampler

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, strategies

# %%
# One plane, one learner
# ----------------------
# Random Fourier features turn the classifier into a kernel machine, so that its decision boundaries
# can bend and it is uncertain where it has seen nothing.

X, y = make_blobs(
    [110, 110, 110],
    centers=[[-1.3, 0.2], [1.1, 0.7], [0.3, -1.2]],
    cluster_std=0.62,
    random_state=3,
)
features = RBFSampler(gamma=0.6, n_components=300, random_state=0).fit(X)
classifier = LaplaceUpdateClassifier(features, prior_precision=0.1)
learner = ActiveLearner(classifier, strategies.MarginSampling(), X, random_state=0)
rng = np.random.default_rng(0)
labelled = rng.choice(np.flatnonzero(X[:, 0] < 0.9), 12, replace=False)
learner.teach(labelled, y[labelled]).refit()
is_open = ~np.isin(np.arange(len(X)), labelled)

# %%
# The strategies
# --------------
# ``EPIG`` gets the points on the right as its target inputs. ``LookAhead`` cheats: it knows all
# labels. ``Preselection`` keeps the sixty points of smallest margin and covers these.

is_right = X[:, 0] > 1.5
margin = strategies.MarginSampling()
STRATEGIES = {
    "RandomSampling": strategies.RandomSampling(),
    "LeastConfidentSampling": strategies.LeastConfidentSampling(),
    "MarginSampling": margin,
    "EntropySampling": strategies.EntropySampling(),
    "VarianceSampling": strategies.VarianceSampling(),
    "BALD": strategies.BALD(),
    "BatchBALD": strategies.BatchBALD(),
    "EPIG": strategies.EPIG(X[is_right]),
    "QueryByCommittee": strategies.QueryByCommittee(),
    "BADGE": strategies.BADGE(),
    "BAIT": strategies.BAIT(),
    "CoreSet": strategies.CoreSet(),
    "TypiClust": strategies.TypiClust(),
    "ProbCover": strategies.ProbCover(),
    "MaxHerding": strategies.MaxHerding(),
    "UncertaintyHerding": strategies.UncertaintyHerding(),
    "ExpectedErrorReduction": strategies.ExpectedErrorReduction(),
    "PowerSampling": strategies.PowerSampling(margin),
    "SequentialBatch": strategies.SequentialBatch(margin),
    "LookAhead": strategies.LookAhead(X, y, y),
    "Preselection": strategies.Preselection(strategies.CoreSet(), margin, n_candidates=60),
    "MostProbable": strategies.MostProbable(1),
}

# %%
# What each would query
# ---------------------

SCALE = {"vmin": -0.15 * len(X), "vmax": len(X)}  # of ranks; the least is pale, not white
axis_x, axis_y = np.linspace(-3.2, 3.0, 150), np.linspace(-3.0, 2.7, 140)
grid = np.stack(np.meshgrid(axis_x, axis_y), axis=-1)
regions = learner.predict(grid.reshape(-1, 2)).reshape(grid.shape[:2])


def draw(name, strategy):
    """A picture of the utilities and of the choice."""
    strategy.set_params(random_state=0)
    positions, utilities = strategy.query(
        learner, X, n_instances=6, candidates=is_open, return_utilities=True
    )
    _, ax = plt.subplots(figsize=(3.4, 3.1), layout="constrained")
    for region in (0, 1):  # borders between three
        ax.contour(axis_x, axis_y, regions == region, levels=[0.5], colors="0.6", linewidths=1)
    worth = rankdata(utilities[is_open])
    ax.scatter(*X[is_open].T, c=worth, cmap="Blues", s=16, linewidths=0, **SCALE)
    ax.scatter(*X[labelled].T, c="black", marker="x", s=24, linewidths=1.2)
    ax.scatter(
        *X[positions].T, facecolors="none", edgecolors="#D55E00", s=70, linewidths=1.8, zorder=3
    )
    ax.set(title=name, xticks=[], yticks=[])


# sphinx_gallery_thumbnail_number = 7
plt.rcParams["figure.max_open_warning"] = len(STRATEGIES)
for name, strategy in STRATEGIES.items():
    draw(name, strategy)
plt.show()
