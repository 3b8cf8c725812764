"""
Learn five unseen digits, ten labels at a time
==============================================

A small convolutional network is trained on the digits 0 to 4 and frozen. A
:class:`~laplace_al.LaplaceUpdateClassifier` then learns the digits 5 to 9, which the network has
never seen, from sixty labels. Each label is a Bayesian update in closed form: neither the network
nor the last layer is trained again.

Four ways to spend the labels are compared over twenty seeds, paired by the same split of the data
and the same five labels to start from:

* ten images at random,
* ten images at once by the smallest margin (top-b): they resemble each other,
* one image at a time by the smallest margin, its label learnt by an update before the next choice,
* the same with a refit of the last layer on all labels instead of each update.
"""

import sys

import matplotlib.pyplot as plt
import pandas as pd
import torch
from scipy.stats import wilcoxon
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from laplace_al import LaplaceUpdateClassifier, simulate
from laplace_al.strategies import MarginSampling, RandomSampling

FIGURE = sys.argv[1] if len(sys.argv) > 1 else "active_learning_digits.png"
N_SEEDS, BUDGET, BATCH = 20, 60, 10

# %%
# A network that knows the digits 0 to 4
# --------------------------------------

images, digits = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
seen = digits < 5

torch.manual_seed(0)
network = NeuralNetClassifier(
    nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    ),
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=1e-3,
    max_epochs=20,
    batch_size=64,
    train_split=None,
    verbose=0,
)
network.fit(images[seen], digits[seen])

# %%
# Sixty labels of the digits 5 to 9, spent in four ways
# -----------------------------------------------------
# The classifier takes raw images: the frozen network makes their features. With so few labels the
# shared covariance, the structure of the paper, learns more from an update than one of each class.

classifier = LaplaceUpdateClassifier(network, prior_precision=0.1, covariance="shared")
ways = {
    "random": {"strategy": RandomSampling(), "n_instances": BATCH},
    "margin, top-b": {"strategy": MarginSampling(), "n_instances": BATCH},
    "margin, label by label, updates": {"strategy": MarginSampling()},
    "margin, label by label, refits": {"strategy": MarginSampling(), "refit_every": 1},
}
runs = []
for seed in range(N_SEEDS):
    X_pool, X_test, y_pool, y_test = train_test_split(
        images[~seen], digits[~seen], test_size=0.5, stratify=digits[~seen], random_state=seed
    )
    for way, how in ways.items():
        run = simulate(
            classifier,
            X_pool=X_pool,
            y_pool=y_pool,
            X_test=X_test,
            y_test=y_test,
            budget=BUDGET,
            score_every=BATCH,
            n_initial=5,
            random_state=seed,
            **how,
        )
        runs.append(run.assign(way=way, seed=seed))
curves = pd.concat(runs)

# %%
# The table
# ---------
# Accuracy after each batch, the area under the curve (its mean over the batches) with the standard
# error over the seeds, and the milliseconds that learning one label took, features included.

after_a_batch = curves[curves.n_labels > 5]
areas = after_a_batch.pivot_table(index="seed", columns="way", values="score")[list(ways)]
table = curves.pivot_table(index="way", columns="n_labels", values="score").loc[list(ways)]
table.columns.name = "accuracy after labels:"
table["area"] = areas.mean()
table["± s.e."] = areas.sem()
table["ms/label"] = 1000 * after_a_batch.groupby("way").teach_seconds.mean() / BATCH

print(f"Digits 5-9 on a network trained on 0-4, mean of {N_SEEDS} seeds\n")
print(table.rename_axis(None).to_string(float_format="{:.3f}".format))
top_b = areas["margin, top-b"]
for way in list(ways)[2:]:
    gain = areas[way] - top_b
    print(
        f"\n{way} against top-b: area {gain.mean():+.3f} ± {gain.sem():.3f} (s.e.), higher in "
        f"{(gain > 0).sum()} of {N_SEEDS} seeds, Wilcoxon signed-rank p = "
        f"{wilcoxon(gain).pvalue:.2g}",
        end="",
    )
print()

# %%
# The picture
# -----------

figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
styles = zip(
    ways, ["0.55", "tab:orange", "tab:blue", "tab:green"], ["-", "-", "-", ":"], strict=True
)
for way, color, line in styles:
    scores = after_a_batch[after_a_batch.way == way].groupby("n_labels").score
    mean, error = scores.mean(), scores.sem()
    axes.plot(mean.index, mean, line, color=color, marker="o", markersize=4, label=way)
    axes.fill_between(mean.index, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
axes.set(
    xlabel="labels of the digits 5-9",
    ylabel="test accuracy",
    title="A network trained on the digits 0-4 learns 5-9 in closed form",
)
axes.legend(title=f"mean ± s.e. of {N_SEEDS} seeds", frameon=False, loc="lower right")
axes.grid(alpha=0.3)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig(FIGURE, dpi=150)
print(f"\nFigure: {FIGURE}")
