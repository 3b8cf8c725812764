"""
Ten at once: batches that repeat themselves, and batches that do not
====================================================================

An annotator labels ten images of digits at a time. If each image is chosen on its own by the
smallest margin, the ten often show the same difficulty ten times. This example shows, as images,
the batches that strategies choose from the same pool after the same thirty labels. It then measures
over ten seeds how diverse the batches are and how much they help.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import (
    BADGE,
    BatchBALD,
    MarginSampling,
    PowerSampling,
    RandomSampling,
    SequentialBatch,
)

# %%
# Five ways to a batch, and a baseline
# ------------------------------------
# ``PowerSampling`` draws with odds that grow with the utility. ``SequentialBatch`` learns an
# imagined label of each choice before the next one. ``BADGE`` and ``BatchBALD`` are diverse by
# construction.

margin = MarginSampling()
strategies = {
    "random": RandomSampling(),
    "margin, top-b": margin,
    "margin, power": PowerSampling(margin, exponent=4),
    "margin, sequential": SequentialBatch(margin, labels="sampled"),
    "BADGE": BADGE(),
    "BatchBALD": BatchBALD(n_samples=50, max_configurations=2000),
}
X, y = load_digits(return_X_y=True)
X = X / 16
N_SEEDS, N_START, BATCH = 10, 30, 10


def split(seed):
    """Pool, test set and the positions that are labelled at the start."""
    parts = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
    start = np.random.default_rng(seed).choice(len(parts[0]), N_START, replace=False)
    return *parts, start


def chosen(strategy, classifier, X_pool, start, seed):
    """Positions of a batch among what is not labelled."""
    strategy = clone(strategy).set_params(random_state=seed)
    is_open = ~np.isin(np.arange(len(X_pool)), start)
    return strategy.query(classifier, X_pool, n_instances=BATCH, candidates=is_open)


# %%
# The batches
# -----------

X_pool, X_test, y_pool, y_test, start = split(seed=0)
classifier = LaplaceUpdateClassifier(prior_precision=0.1).fit(X_pool[start], y_pool[start])
figure, axes = plt.subplots(
    len(strategies), BATCH, figsize=(7.5, 4.6), layout="constrained", subplot_kw={"box_aspect": 1}
)
for row, (name, strategy) in zip(axes, strategies.items(), strict=True):
    batch = chosen(strategy, classifier, X_pool, start, seed=0)
    for ax, position in zip(row, batch[np.argsort(y_pool[batch])], strict=True):
        ax.imshow(X_pool[position].reshape(8, 8), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# How diverse are they, and what are they worth?
# ----------------------------------------------
# Diversity is how many digits a batch contains, and how far each of its images is from its nearest
# neighbour in the batch. Worth is the accuracy after a refit with the true labels minus that with a
# random batch, in points, paired by seed. Diversity is not the same as worth: after so few labels
# nearly every hard image teaches something, and ten seeds cannot tell these batches apart.

rows = []
for seed in range(N_SEEDS):
    X_pool, X_test, y_pool, y_test, start = split(seed)
    classifier = LaplaceUpdateClassifier(prior_precision=0.1).fit(X_pool[start], y_pool[start])
    for name, strategy in strategies.items():
        batch = chosen(strategy, classifier, X_pool, start, seed)
        distances = pairwise_distances(X_pool[batch]) + np.diag(np.full(BATCH, np.inf))
        both = np.concatenate([start, batch])
        learnt = clone(classifier).fit(X_pool[both], y_pool[both])
        rows.append(
            {
                "batch": name,
                "seed": seed,
                "digits": len(np.unique(y_pool[batch])),
                "nearest": distances.min(axis=1).mean(),
                "accuracy": 100 * learnt.score(X_test, y_test),
            }
        )
frame = pd.DataFrame(rows).set_index(["batch", "seed"])
gain = frame.accuracy - frame.accuracy["random"].reindex(frame.index, level="seed")
table = frame[["digits", "nearest"]].groupby("batch", sort=False).mean()
table["gain"] = gain.groupby("batch", sort=False).mean()
table["± s.e."] = gain.groupby("batch", sort=False).sem()
print(table.to_string(float_format="{:.2f}".format))
