"""
In modAL: the same loop, taught by updates
==========================================

modAL's ``ActiveLearner`` fits its estimator again, on everything, after each label.
:class:`laplace_al.integrations.modal.ActiveLearner` is modAL's learner and is used in the same way,
but teaches by :meth:`~laplace_al.LaplaceUpdateClassifier.partial_fit`. Strategies of both libraries
work in it. This example needs modAL: ``pip install "laplace_al[modal]"``.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from modAL.uncertainty import margin_sampling
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations.modal import ActiveLearner
from laplace_al.strategies import VarianceSampling

# %%
# A pool of digits, twenty labels
# -------------------------------

X, y = load_digits(return_X_y=True)
X_pool, X_test, y_pool, y_test = train_test_split(X / 16, y, test_size=0.4, random_state=0)
X_start, y_start, X_pool, y_pool = X_pool[:20], y_pool[:20], X_pool[20:], y_pool[20:]
N_LABELS = 60


def loop(estimator, strategy):
    """Accuracy after each label, and the seconds that teaching took in all."""
    learner = ActiveLearner(estimator, strategy, X_training=X_start, y_training=y_start)
    X_left, y_left = X_pool, y_pool
    accuracy, seconds = [learner.score(X_test, y_test)], 0.0
    for _ in range(N_LABELS):
        position, instance = learner.query(X_left)
        start = time.perf_counter()
        learner.teach(instance, y_left[position])
        seconds += time.perf_counter() - start
        X_left, y_left = np.delete(X_left, position, axis=0), np.delete(y_left, position)
        accuracy.append(learner.score(X_test, y_test))
    return accuracy, seconds


# %%
# modAL's strategy and ours, updates and refits
# ---------------------------------------------
# An estimator without ``partial_fit``, such as ``LogisticRegression``, is fitted again after each
# label. ``VarianceSampling`` queries where the features are unlike everything learnt so far,
# whatever the prediction; on these digits this is a poor guide.

loops = {
    "Laplace, modAL's margin_sampling": (
        LaplaceUpdateClassifier(prior_precision=0.1),
        margin_sampling,
    ),
    "Laplace, our VarianceSampling": (
        LaplaceUpdateClassifier(prior_precision=0.1),
        VarianceSampling(random_state=0),
    ),
    "LogisticRegression, margin_sampling": (LogisticRegression(C=10), margin_sampling),
}
curves = {}
for name, (estimator, strategy) in loops.items():
    curves[name], seconds = loop(estimator, strategy)
    print(f"{name:36s} accuracy {curves[name][-1]:.3f}, {1000 * seconds / N_LABELS:.1f} ms a label")

# %%
# The picture
# -----------

figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
styles = [("#0072B2", "-"), ("#D55E00", "-"), ("0.5", "--")]
for (name, curve), (color, style) in zip(curves.items(), styles, strict=True):
    ax.plot(np.arange(len(curve)) + len(X_start), curve, style, color=color, label=name)
ax.set(xlabel="Number of labels", ylabel="Test accuracy")
ax.legend(frameon=False, loc="lower right")
ax.grid(alpha=0.3)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
