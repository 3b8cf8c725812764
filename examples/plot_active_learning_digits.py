"""
Learn five unseen digits, ten labels at a time
==============================================

A small convolutional network is trained on the digits 0 to 4 and frozen. A
:class:`~laplace_al.LaplaceUpdateClassifier` then learns the digits 5 to 9, which the network has
never seen, from sixty labels. Each label is a Bayesian update in closed form: neither the network
nor the last layer is trained again.

Four ways to choose the sixty images are compared over twenty seeds, paired by the same split of the
data and the same five initial labels:

* ten images at a time, at random,
* ten images at a time, by the smallest margin (top-b): these images resemble each other,
* one image at a time by the smallest margin, its label learnt by an update before the next choice,
* the same with a refit of the last layer on all labels instead of each update.
"""

import sys

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from laplace_al import LaplaceUpdateClassifier, LearningCurveDisplay, compare
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
# The classifier takes raw images, and the frozen network computes their features. With so few
# labels the shared covariance, the structure of the paper, learns more from an update than one
# covariance for each class.

classifier = LaplaceUpdateClassifier(network, prior_precision=0.1, covariance="shared")
ways = {
    "random": {"strategy": RandomSampling(), "n_instances": BATCH},
    "margin, top-b": {"strategy": MarginSampling(), "n_instances": BATCH},
    "margin, label by label, updates": {"strategy": MarginSampling()},
    "margin, label by label, refits": {"strategy": MarginSampling(), "refit_every": 1},
}
curves = compare(
    classifier,
    ways,
    images[~seen],
    digits[~seen],
    budget=BUDGET,
    score_every=BATCH,
    n_initial=5,
    n_repeats=N_SEEDS,
    refit_every=None,
    random_state=0,
)

# %%
# The table
# ---------
# The table shows the accuracy after each batch, the area under the curve (its mean over the labels)
# with the standard error over the seeds, and the milliseconds that learning one label took,
# features included. The differences to top-b are paired by seed; p is from Wilcoxon's signed-rank
# test, with Holm's correction.

learnt = curves[curves.n_labels > 5]
display = LearningCurveDisplay.from_simulation(
    learnt, baseline="margin, top-b", score_name="Test accuracy"
)
summary = display.summary().set_index("strategy")
table = curves.pivot_table(index="strategy", columns="n_labels", values="score").loc[list(ways)]
table.columns.name = "accuracy after labels:"
table["area"], table["± s.e."] = summary.area, summary.area_se
table["ms/label"] = 1000 * learnt.groupby("strategy").teach_seconds.mean() / BATCH

print(f"Digits 5-9 on a network trained on 0-4, mean of {N_SEEDS} seeds\n")
print(table.rename_axis(None).to_string(float_format="{:.3f}".format))
for way, row in summary.drop(index=["random", "margin, top-b"]).iterrows():
    print(
        f"\n{way} against top-b: area {row.difference:+.3f} ± {row.difference_se:.3f} (s.e.), "
        f"higher in {row.n_higher:.0f} of {N_SEEDS} seeds, p = {row.p_value:.2g}",
        end="",
    )
print()

# %%
# The picture
# -----------

display.ax_.set(
    xlabel="Labels of the digits 5-9",
    title="A network trained on the digits 0-4 learns 5-9 in closed form",
)
display.figure_.savefig(FIGURE, dpi=150)
print(f"\nFigure: {FIGURE}")
