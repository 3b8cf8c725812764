"""
What it does not know: uncertainty and inputs of another kind
=============================================================

A classifier has learnt the digits 0 to 4. It is then shown other images of these digits, and three
kinds of input that it cannot know: the digits 5 to 9, digits turned by 90 degrees, and noise. It
must always answer with one of the digits 0 to 4. Can it at least tell that it does not know?

A :class:`~laplace_al.LaplaceUpdateClassifier` has several measures of uncertainty. One is the
probability of its own prediction. The *total* uncertainty has two parts: the *aleatoric* part is
the ambiguity that remains whatever the weights are, the *epistemic* part is what a label would
reduce. The *variance* of the logits depends only on how far an input is from everything learnt.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import RBFSampler
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from laplace_al import LaplaceUpdateClassifier

# %%
# The digits 0 to 4
# -----------------
# Random Fourier features preserve distances: images that are far from all labelled images have
# features that are far as well. A network may not preserve distances, and then its last layer
# cannot tell that an input is far away; see the note below.

images, digits = load_digits(return_X_y=True)
images = images / 16
is_known = digits < 5
X, X_test, y, y_test = train_test_split(images[is_known], digits[is_known], random_state=0)
features = RBFSampler(gamma=0.03, n_components=500, random_state=0).fit(X)
classifier = LaplaceUpdateClassifier(features, prior_precision=0.1).fit(X, y)
print(f"accuracy on new images of 0-4: {classifier.score(X_test, y_test):.3f}")

# %%
# Three kinds of input that it cannot know
# ----------------------------------------

turned = np.rot90(X_test.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
noise = np.random.default_rng(0).permuted(X_test, axis=1)  # the same pixels in disorder
inputs = {"0-4": X_test, "5-9": images[~is_known], "turned": turned, "noise": noise}


def doubts(X):
    """Five ways to be unsure: larger is less certain, each (n,)."""
    total, aleatoric, epistemic = classifier.predict_uncertainty(X)
    return {
        "1 - probability": 1 - classifier.predict_proba(X).max(axis=1),
        "total": total,
        "aleatoric": aleatoric,
        "epistemic": epistemic,
        "variance of logits": classifier.latent_mean_and_variance(X)[1].mean(axis=1),
    }


found = {name: doubts(X) for name, X in inputs.items()}

# %%
# Which measure detects them?
# ---------------------------
# The area under the ROC curve is how often an unknown input is more uncertain than a known one. The
# probability is easily fooled by turned digits, some of which look like other digits to the
# classifier; the epistemic part is fooled less, and the variance of the logits not at all. On new
# digits, which lie between the known ones, it is the other way round.

known = found.pop("0-4")


def area(name, doubt):
    """AUROC of one doubt for one kind of input."""
    values = np.concatenate([known[doubt], found[name][doubt]])
    return roc_auc_score(np.arange(len(values)) >= len(X_test), values)


table = pd.DataFrame({name: {doubt: area(name, doubt) for doubt in known} for name in found})
print("\nAUROC against new images of 0-4\n")
print(table.to_string(float_format="{:.3f}".format))

# %%
# The picture
# -----------
# Densities are on a logarithmic scale. Below them are, for each kind of input, the four images with
# the largest epistemic part, and the digits that the classifier predicts for them.

colors = {"0-4": "0.6", "5-9": "#0072B2", "turned": "#D55E00", "noise": "#009E73"}
figure = plt.figure(figsize=(9.5, 4.6), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=[2.2, 1])
for ax, doubt in zip(
    top.subplots(1, 3), ["1 - probability", "epistemic", "variance of logits"], strict=True
):
    bins = np.linspace(0, max(part[doubt].max() for part in (known, *found.values())), 31)
    ax.hist(known[doubt], bins, density=True, color=colors["0-4"], label="0-4", alpha=0.6)
    for name, part in found.items():
        ax.hist(
            part[doubt],
            bins,
            density=True,
            histtype="step",
            linewidth=1.8,
            color=colors[name],
            label=name,
        )
    ax.set(title=doubt, yticks=[], yscale="log")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", which="both", left=False, labelleft=False)
top.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside right center")
shown = [
    (name, X) for name in found for X in inputs[name][np.argsort(-found[name]["epistemic"])[:4]]
]
for ax, (name, image) in zip(bottom.subplots(1, len(shown)), shown, strict=True):
    ax.imshow(image.reshape(8, 8), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{classifier.predict([image])[0]}?", color=colors[name], fontsize="medium")
    for spine in ax.spines.values():
        spine.set_edgecolor(colors[name])
plt.show()

# %%
# .. note::
#    On the features of a small network with ReLUs that was trained on 0 to 4, the variance of the
#    logits of unknown digits is mostly *smaller* than that of known ones: the network maps them to
#    nearly nothing. Use the probability or the epistemic part there, or a network that keeps
#    distances, by spectral normalisation for instance.
