"""
A stream that drifts, and labels that cost
==========================================

Images of digits arrive ten at a time. The label of each image is predicted before it is known, and
then learnt: the share of right predictions is the *prequential* accuracy. In the middle of the
stream somebody turns the camera by 90 degrees, and what was learnt before becomes of little use.

A :class:`~laplace_al.LaplaceUpdateClassifier` learns each label by a Bayesian update. With
``forgetting`` below 1, each label makes all earlier ones count a little less, so that the
classifier follows the drift. Two online learners of the same kind of model, one logistic regression
per class, learn by stochastic gradient descent: scikit-learn's ``SGDClassifier`` and river's
``LogisticRegression``.

In the second part labels have a cost: only some of the images may be labelled, and a threshold on
the margin of the prediction decides which. The threshold adapts to the budget. This is a variant of
the variable uncertainty strategy of Žliobaitė, Bifet, Pfahringer and Holmes, *Active learning with
drifting streaming data*, IEEE TNNLS 2014.

This example needs river: ``pip install "laplace_al[examples]"``.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from river import compat, linear_model, multiclass, optim
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import scores

FIGURE = sys.argv[1] if len(sys.argv) > 1 else "stream.png"
# Seeds of the orders that count. No choice made here, tuning included, has seen these orders.
SEEDS = range(2000, 2005)
N_SEEDS, BLOCK, WINDOW = len(SEEDS), 10, 150
CLASSES = np.arange(10)

# %%
# The stream
# ----------
# The stream is all images in random order, with those of the second half turned. Gradient descent
# needs features of one scale, so every learner gets the same features: pixels standardised by the
# mean and the standard deviation of the images so far, as a stream allows.

images, digits = load_digits(return_X_y=True)
N_IMAGES = len(digits) - len(digits) % (2 * BLOCK)
DRIFT = N_IMAGES // 2


def standardised_so_far(X):
    """Rows less the mean of the rows so far, by their standard deviation; 0 if that is 0."""
    n_so_far = np.arange(1, len(X) + 1)[:, None]
    mean = X.cumsum(axis=0) / n_so_far
    variance = (X**2).cumsum(axis=0) / n_so_far - mean**2
    scale = np.sqrt(np.where(variance > 1e-9, variance, np.inf))
    return (X - mean) / scale


def stream(seed):
    """Features (n, 64) and digits in the order of their arrival."""
    order = np.random.default_rng(seed).permutation(len(digits))[:N_IMAGES]
    X = images[order].reshape(-1, 8, 8)
    X[DRIFT:] = np.rot90(X[DRIFT:], axes=(1, 2))
    return standardised_so_far(X.reshape(N_IMAGES, 64)), digits[order]


# %%
# Predict, then learn
# -------------------
# The most important parameter of each learner is tuned over three values: the forgetting, the prior
# precision and the learning rates. Tuning uses the same images in an order that does not count
# later. The milliseconds are those of predicting and learning, ten images at a time.


def prequential(model, X, y, may_learn):
    """Whether each prediction is right; the first block is learnt before any is made.

    ``may_learn(probabilities)`` says which images of a block are learnt.
    """
    model.partial_fit(X[:BLOCK], y[:BLOCK], classes=CLASSES)
    right = []
    for start in range(BLOCK, len(y), BLOCK):
        X_block, y_block = X[start : start + BLOCK], y[start : start + BLOCK]
        probabilities = model.predict_proba(X_block)
        right.extend(CLASSES[probabilities.argmax(axis=1)] == y_block)
        learnt = may_learn(probabilities)
        if learnt.any():
            model.partial_fit(X_block[learnt], y_block[learnt])
    return np.array(right)


def everything(probabilities):
    """Learn all images of a block."""
    return np.ones(len(probabilities), dtype=bool)


def scikit_learn(rate):
    """One logistic regression per class by scikit-learn."""
    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, random_state=0)


def river(rate):
    """One logistic regression per class by river."""
    regression = linear_model.LogisticRegression(optim.SGD(rate), intercept_lr=rate)
    return compat.convert_river_to_sklearn(multiclass.OneVsRestClassifier(regression))


LEARNERS = {
    "Laplace, forgetting": (
        lambda value: LaplaceUpdateClassifier(prior_precision=1.0, forgetting=value),
        [0.99, 0.995, 0.998],
    ),
    "Laplace": (lambda value: LaplaceUpdateClassifier(prior_precision=value), [0.01, 0.1, 1.0]),
    "SGDClassifier": (scikit_learn, [0.01, 0.03, 0.1]),
    "river": (river, [0.01, 0.03, 0.1]),
}


def tuned(make, values):
    """The value of the best accuracy on an order apart."""
    X, y = stream(seed=1000)
    accuracy = [prequential(make(value), X, y, everything).mean() for value in values]
    return values[int(np.argmax(accuracy))]


best = {name: tuned(make, values) for name, (make, values) in LEARNERS.items()}
right, seconds = {}, {}
for name, (make, _) in LEARNERS.items():
    start = time.perf_counter()
    right[name] = np.array(
        [prequential(make(best[name]), *stream(seed), everything) for seed in SEEDS]
    )
    seconds[name] = time.perf_counter() - start

# %%
# The table
# ---------


def parts(right):
    """Accuracy in percent of each seed before the drift, after it and in all: (3, n_seeds)."""
    right = 100 * np.atleast_2d(right)
    halves = right[:, : DRIFT - BLOCK], right[:, DRIFT - BLOCK :]
    return np.array([each.mean(axis=1) for each in (*halves, right)])


def with_error(values):
    """Mean and its standard error over the seeds."""
    return f"{np.mean(values):.1f} ± {error(values):.1f}"


def error(values):
    """Standard error of the mean over the last axis."""
    return np.std(values, axis=-1, ddof=1) / np.sqrt(N_SEEDS)


PARTS = ["before the drift", "after", "all"]
rows = {}
for name, each in right.items():
    rows[name] = {"tuned to": best[name]}
    rows[name] |= dict(zip(PARTS, map(with_error, parts(each)), strict=True))
    rows[name]["ms/image"] = f"{1000 * seconds[name] / N_SEEDS / N_IMAGES:.2f}"
print(
    f"Prequential accuracy in percent when every image is learnt, mean ± s.e. of {N_SEEDS} orders\n"
)
print(pd.DataFrame(rows).T.to_string())
for name in list(LEARNERS)[1:]:
    gain = parts(right["Laplace, forgetting"])[1] - parts(right[name])[1]
    print(f"after the drift, forgetting against {name}: {with_error(gain)} points, in pairs")

# %%
# Ask only when uncertain
# -----------------------
# The label of an image is queried if the margin between its two most probable classes is below a
# threshold, unless the budget's share of the images so far has already been queried. Each margin
# below the threshold lowers it, and every other margin raises it, in steps that balance at that
# share. The threshold thus follows a quantile of the margins, through a drift too. Random labelling
# learns as many images, including the same first ten.


class Uncertain:
    """Ask where the margin is below a threshold that follows the budget."""

    step = 0.05

    def __init__(self, budget):
        self.budget = budget
        self.threshold = 1.0
        self.n_seen = self.n_asked = BLOCK

    def __call__(self, probabilities):
        """Which rows to ask about."""
        return np.array([self.asks(margin) for margin in 1 - scores.margin(probabilities)])

    def asks(self, margin):
        """Whether to ask about one image."""
        self.n_seen += 1
        is_uncertain = margin < self.threshold
        self.threshold *= np.exp(self.step * (self.budget - is_uncertain))
        asks = is_uncertain and self.n_asked < self.budget * self.n_seen
        self.n_asked += asks
        return asks


class Drawn:
    """Ask about as many images, drawn at random."""

    def __init__(self, n_asked, seed):
        order = np.random.default_rng(seed).permutation(N_IMAGES - BLOCK)
        self.blocks = iter((order < n_asked - BLOCK).reshape(-1, BLOCK))

    def __call__(self, probabilities):
        """Which rows to ask about."""
        return next(self.blocks)


BUDGETS = [0.05, 0.1, 0.2]
make = LEARNERS["Laplace, forgetting"][0]
n_labels = np.empty((len(BUDGETS), N_SEEDS))
asked = {how: np.empty((len(BUDGETS), 3, N_SEEDS)) for how in ("when uncertain", "at random")}
for i, budget in enumerate(BUDGETS):
    for j, seed in enumerate(SEEDS):
        X, y = stream(seed)
        uncertain = Uncertain(budget)
        for how in asked:
            ask = uncertain if how == "when uncertain" else Drawn(uncertain.n_asked, seed)
            found = prequential(make(best["Laplace, forgetting"]), X, y, ask)
            asked[how][i, :, j] = parts(found)[:, 0]
        n_labels[i, j] = uncertain.n_asked

rows = []
for i, budget in enumerate(BUDGETS):
    for how, each in asked.items():
        row = {"budget": f"{budget:.0%}", "asked": how, "labels": f"{n_labels[i].mean():.0f}"}
        rows.append(row | dict(zip(PARTS, map(with_error, each[i]), strict=True)))
    gain = asked["when uncertain"][i] - asked["at random"][i]
    rows.append({"asked": "gain, in pairs"} | dict(zip(PARTS, map(with_error, gain), strict=True)))
print("\nThe same when only some images are learnt, by Laplace with forgetting\n")
print(pd.DataFrame(rows).fillna("").to_string(index=False))

# %%
# The picture
# -----------

COLORS = dict(zip(LEARNERS, ["tab:blue", "tab:orange", "0.35", "tab:green"], strict=True))
figure, (left, middle) = plt.subplots(
    1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=[1.7, 1]
)
window = np.ones(WINDOW) / WINDOW
n_seen = np.arange(BLOCK + WINDOW, N_IMAGES + 1)
for name, each in right.items():
    curves = 100 * np.array([np.convolve(row, window, mode="valid") for row in each])
    mean, spread = curves.mean(axis=0), error(curves.T)
    style = {"color": COLORS[name], "linewidth": 2 if name.startswith("Laplace") else 1.2}
    left.plot(n_seen, mean, "--" if name == "river" else "-", label=name, **style)
    left.fill_between(n_seen, mean - spread, mean + spread, color=COLORS[name], alpha=0.15, lw=0)
left.axvline(DRIFT, color="0.5", linewidth=1, linestyle=":")
left.annotate(
    "the camera is turned", (DRIFT, 97), xytext=(-6, 0), textcoords="offset points", ha="right"
)
left.set(
    xlabel="images seen",
    ylabel=f"accuracy on the last {WINDOW} images in %",
    title="Every image is learnt",
    xlim=(0, N_IMAGES),
    ylim=(40, 100),
)
left.legend(frameon=False, loc="lower right")

for (how, each), color in zip(asked.items(), ["tab:blue", "0.5"], strict=True):
    overall = each[:, 2]
    middle.errorbar(
        n_labels.mean(axis=1),
        overall.mean(axis=1),
        error(overall),
        color=color,
        marker="o",
        capsize=3,
        label=f"asked {how}",
    )
everything_learnt = parts(right["Laplace, forgetting"])[2].mean()
middle.axhline(everything_learnt, color="tab:blue", linewidth=1, linestyle=":")
middle.annotate(
    f"all {N_IMAGES} labels", (0, everything_learnt), xytext=(4, 4), textcoords="offset points"
)
middle.set(
    xlabel=f"labels, of {N_IMAGES} images",
    ylabel="accuracy on all images in %",
    title="Labels cost: Laplace, forgetting",
    xlim=(0, None),
)
middle.legend(frameon=False, loc="lower right")
for axes in (left, middle):
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
figure.suptitle(f"A stream of digits, mean ± s.e. of {N_SEEDS} orders")
figure.savefig(FIGURE, dpi=150)
print(f"\nFigure: {FIGURE}")
