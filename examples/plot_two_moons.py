"""
Two moons: update or retrain?
=============================

A classifier has seen ten labels of two moons, all from their left half. Ten more labels come from
the right half. The classifier learns them by a Bayesian update in closed form, from its posterior
alone, and should then predict what it would predict if it had been trained again on all twenty.

This reproduces the two-dimensional figure of Huseljic et al., *Efficient Bayesian Updates for Deep
(Active) Learning via Laplace Approximations*, arXiv 2210.06112. Random Fourier features stand for
the deep network: a linear layer on them is nearly a Gaussian process, so the posterior is uncertain
where it has seen nothing.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.kernel_approximation import RBFSampler

from laplace_al import LaplaceUpdateClassifier

# %%
# Labels of the left, then of the right
# -------------------------------------

X, y = make_moons(400, noise=0.12, random_state=0)
rng = np.random.default_rng(1)


def some(side):
    """Positions of five instances of each moon on one side."""
    return np.concatenate(
        [rng.choice(np.flatnonzero((y == moon) & side), 5, replace=False) for moon in (0, 1)]
    )


middle = 0.5
first, later = some(X[:, 0] < middle), some(X[:, 0] >= middle)
everything = np.concatenate([first, later])

# %%
# Three classifiers
# -----------------
# ``RBFSampler`` computes 500 features and is never trained, like a frozen network. The paper uses
# one covariance for all classes; with two classes every structure is the same.

network = RBFSampler(gamma=2.0, n_components=500, random_state=0).fit(X)
before = LaplaceUpdateClassifier(network, prior_precision=0.02, calibration=None)
before.fit(X[first], y[first])
updated = clone(before).fit(X[first], y[first]).partial_fit(X[later], y[later])
retrained = clone(before).fit(X[everything], y[everything])

# %%
# What they predict
# -----------------

axis_x, axis_y = np.linspace(-1.6, 2.5, 140), np.linspace(-1.1, 1.6, 110)
grid = np.stack(np.meshgrid(axis_x, axis_y), axis=-1)  # (110, 140, 2)


def probability(classifier):
    """Of the second moon, over the plane."""
    return classifier.predict_proba(grid.reshape(-1, 2))[:, 1].reshape(grid.shape[:2])


models = {"before": before, "updated": updated, "retrained": retrained}
planes = {name: probability(model) for name, model in models.items()}
print("            accuracy   mean |p - p retrained|")
for name, plane in planes.items():
    distance = np.abs(plane - planes["retrained"]).mean()
    print(f"{name:10s}  {models[name].score(X, y):8.3f}   {distance:.3f}")

# %%
# The picture
# -----------
# Colour is the predictive probability, white where it is one half: before the update the classifier
# is uncertain on the right side. The black line is the decision boundary; the dashed lines are at
# 20 % and 80 %. Circles are the first ten labels, diamonds the ten of the update.

titles = {
    "before": "Ten labels of the left half",
    "updated": "Ten more by an update",
    "retrained": "Retrained on all twenty",
}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained", sharey=True)
for ax, (name, plane) in zip(axes, planes.items(), strict=True):
    levels = np.linspace(0, 1, 21)
    filled = ax.contourf(axis_x, axis_y, plane, levels=levels, cmap="RdBu_r", alpha=0.85)
    ax.contour(axis_x, axis_y, plane, levels=[0.5], colors="black", linewidths=1.6)
    ax.contour(
        axis_x, axis_y, plane, levels=[0.2, 0.8], colors="black", linewidths=0.8, linestyles="--"
    )
    ax.scatter(*X.T, c=np.where(y == 1, "tab:red", "tab:blue"), s=4, alpha=0.25, linewidths=0)
    for positions, marker in ((first, "o"), (later, "D")):
        if name == "before" and marker == "D":
            continue
        colors = np.where(y[positions] == 1, "tab:red", "tab:blue")
        ax.scatter(
            *X[positions].T, c=colors, marker=marker, s=42, edgecolors="white", linewidths=1.2
        )
    ax.set(title=titles[name], xticks=[], yticks=[])
figure.colorbar(filled, ax=axes, ticks=[0, 0.5, 1], label="p(second moon)", shrink=0.9)
plt.show()
