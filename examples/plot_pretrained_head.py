"""
Start from a trained network: the pretrained head
=================================================

A network has been trained completely, including its last layer, and all but a hundred instances of
its training data are gone. ``head="pretrained"`` keeps that last layer as the mean of the
posterior: the predictions are those of the network, but with calibrated probabilities. Then the
camera is turned a little. The classifier learns from labels of the new images, with one update for
each, where the network would have to be trained again.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from laplace_al import LaplaceUpdateClassifier, ReliabilityDisplay

# %%
# A trained network
# -----------------

X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, random_state=0)
torch.manual_seed(0)
network = NeuralNetClassifier(
    nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=3e-3,
    max_epochs=40,
    train_split=None,
    verbose=0,
).fit(X, y)

# %%
# The camera is turned
# --------------------


def turned(images):
    """Images turned by 25 degrees."""
    squares = images.reshape(-1, 8, 8)
    return rotate(squares, 25, axes=(1, 2), reshape=False, order=1).reshape(-1, 64)


X_turned, X_new, y_turned, y_new = train_test_split(
    turned(X_test), y_test, train_size=100, random_state=0
)
# "scale" would trust the head for images as before; these differ much, so the prior is weak
classifier = LaplaceUpdateClassifier(network, head="pretrained", prior_precision=1.0)
classifier.fit(X[:100], y[:100])
fresh = LaplaceUpdateClassifier(network, prior_precision=1.0, classes=range(10))  # knows nothing

# %%
# Learn one label at a time
# -------------------------
# The updated head starts from what the network has learnt. For comparison, a head without
# pretraining learns the same labels on the same features; it takes some labels to catch up.

accuracy = {"pretrained head, updated": [classifier.score(X_new, y_new)], "head from nothing": []}
for image, digit in zip(X_turned, y_turned, strict=True):
    for name, model in zip(accuracy, (classifier, fresh), strict=True):
        model.partial_fit(image[None], [digit])
        accuracy[name].append(model.score(X_new, y_new))
print(f"the network, images as before: {network.score(X_test, y_test):.3f}")
print(f"the network, images turned:    {network.score(X_new, y_new):.3f}")
for name, scores in accuracy.items():
    print(f"{name:30s} {scores[9]:.3f} after 10 labels, {scores[-1]:.3f} after 100")

# %%
# The picture
# -----------
# The right panel shows how well the probabilities for the turned images are calibrated: the network
# is far too sure of itself, the updated head is not.

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9), layout="constrained")
for (name, scores), color in zip(accuracy.items(), ("#0072B2", "#D55E00"), strict=True):
    left.plot(np.arange(101 - len(scores), 101), scores, color=color, label=name)
left.axhline(network.score(X_new, y_new), color="0.5", linestyle="--", label="the network")
left.set(xlabel="Labels of turned images", ylabel="Accuracy on turned images")
left.legend(frameon=False, loc="lower right")
left.grid(alpha=0.3)
left.spines[["top", "right"]].set_visible(False)
for name, model in (("the network", network), ("pretrained head, updated", classifier)):
    color = "0.5" if model is network else "#0072B2"
    ReliabilityDisplay.from_estimator(model, X_new, y_new, ax=right, name=name, color=color)
plt.show()
