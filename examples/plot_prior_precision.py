"""
The prior precision: scale, evidence or a grid search
=====================================================

``prior_precision``, the ``1 / C`` of logistic regression, is the one parameter of a
:class:`~laplace_al.LaplaceUpdateClassifier` to choose. ``fit`` can set it from the scale of the
features, without looking at labels; by the evidence, which is the probability of the labels with
the weights integrated out; or by leave-one-out in closed form. scikit-learn's ``GridSearchCV``
works as well. None of the four needs separate validation labels; here they are compared on a test
set.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split

from laplace_al import LaplaceUpdateClassifier

# %%
# A hundred labels of digits
# --------------------------
# Pixels are the features.

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, train_size=100, stratify=y, random_state=0)
precisions = np.logspace(-3, 1, 17)

# %%
# Four ways to choose
# -------------------
# ``"scale"`` costs nothing. A search makes five fits for each precision, each on four fifths of the
# labels. ``"evidence"`` and ``"loo"`` make about fifteen fits in all. With only one or two labels
# of each class, ``"evidence"`` chooses a prior that overwhelms them.

search = GridSearchCV(
    LaplaceUpdateClassifier(), {"prior_precision": precisions}, scoring="neg_log_loss", cv=5
)
ways = {
    "scale": LaplaceUpdateClassifier(prior_precision="scale"),
    "evidence": LaplaceUpdateClassifier(prior_precision="evidence"),
    "leave-one-out": LaplaceUpdateClassifier(prior_precision="loo"),
    "grid search": search,
}
rows = {}
for way, model in ways.items():
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    classifier = getattr(model, "best_estimator_", model)
    rows[way] = {
        "precision": classifier.prior_precision_,
        "test accuracy": classifier.score(X_test, y_test),
        "test log loss": log_loss(y_test, classifier.predict_proba(X_test)),
        "seconds": seconds,
    }
table = pd.DataFrame(rows).T
print(table.to_string(float_format="{:.3f}".format))

# %%
# All precisions
# --------------
# The evidence measures how probable the labels are under the model as it is, prior included. The
# other curves measure the predictions of labels that were not learnt.

curves = {"evidence": [], "as they come": [], "calibrated": []}
for precision in precisions:
    calibrated = LaplaceUpdateClassifier(prior_precision=precision).fit(X, y)
    raw = LaplaceUpdateClassifier(prior_precision=precision, calibration=None).fit(X, y)
    curves["evidence"].append(calibrated.log_marginal_likelihood_value_ / len(y))
    for name, model in (("calibrated", calibrated), ("as they come", raw)):
        curves[name].append(-log_loss(y_test, model.predict_proba(X_test)))

# %%
# The picture
# -----------
# Calibration does most of what a good prior would do for the probabilities: over four decades the
# calibrated ones hardly change. For the mean, and so for accuracy and updates, the prior still
# matters.

figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
left.plot(precisions, curves["evidence"], color="#0072B2", marker="o", markersize=4)
left.set(title="Log evidence", ylabel="nats per label")
left.axvline(rows["evidence"]["precision"], color="#0072B2", linewidth=1, linestyle=":")
left.annotate(
    f"chosen: {rows['evidence']['precision']:.2g}",
    (rows["evidence"]["precision"], min(curves["evidence"])),
    xytext=(6, 0),
    textcoords="offset points",
    color="#0072B2",
)
searched = search.cv_results_["mean_test_score"]
right.plot(precisions, searched, "s--", color="0.5", markersize=3, label="grid search, 5 folds")
for name, color in (("calibrated", "#009E73"), ("as they come", "#D55E00")):
    label = f"test set, {name}"
    right.plot(precisions, curves[name], "o-", color=color, markersize=4, label=label)
markers = {"scale": "D", "evidence": "v", "leave-one-out": "^", "grid search": "*"}
for way, marker in markers.items():
    place = rows[way]["precision"], -rows[way]["test log loss"]
    right.plot(*place, marker, color="black", markersize=9, label=f"chosen by {way}")
right.set(title="Log-likelihood of new labels", ylabel="nats per label")
right.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
for ax in (left, right):
    ax.set(xscale="log", xlabel="prior precision")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
