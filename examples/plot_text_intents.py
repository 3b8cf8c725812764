"""
Texts: ten intents from fifty labels
====================================

What does somebody want who talks to a smart home? ``data/intents.csv`` has 240 short requests of
ten kinds. A few are hard, such as *remind me in 30 seconds*, which is not an appointment but a
timer. A frozen sentence encoder that was trained on other texts turns each request into 384
numbers; a :class:`~laplace_al.LaplaceUpdateClassifier` on these learns the intents label by label.

The encoder is all-MiniLM-L6-v2 of `sentence-transformers <https://sbert.net>`_. Its embeddings of
these texts are stored beside them, so that this example runs without it. They were computed by

.. code-block:: python

   from sentence_transformers import SentenceTransformer

   encoder = SentenceTransformer("all-MiniLM-L6-v2")
   np.save("data/intents_minilm.npy", encoder.encode(texts).astype("float16"))

For texts of your own, pass the encoder to the classifier as it is,
``LaplaceUpdateClassifier(encoder.encode, prior_precision=0.02)``. The example compares it with word
counts by scikit-learn: tf-idf, reduced to 50 numbers.
"""

import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, LearningCurveDisplay, compare
from laplace_al.strategies import MarginSampling, RandomSampling, TypiClust

# %%
# Two kinds of features
# ---------------------
# The feature vectors of the encoder have norm 1, the others at most 1. The default prior, made for
# features with a norm of a few units, would be too strong.

DATA = pathlib.Path(sys.argv[0]).parent / "data"
requests = pd.read_csv(DATA / "intents.csv")
encoded = np.load(DATA / "intents_minilm.npy").astype("float64")
words = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(50, random_state=0))
counted = words.fit_transform(requests.text)
classifier = LaplaceUpdateClassifier(prior_precision=0.02)

# %%
# What does it query?
# -------------------
# Nothing is labelled at first, so the first ten queries are typical texts of many kinds. Afterwards
# the learner queries where the margin between two intents is smallest, and learns each answer by an
# update. An intent that is not among the first ten texts is added when it is first seen.

learner = ActiveLearner(classifier, MarginSampling(), encoded, random_state=0)
typical = TypiClust(random_state=0).query(learner, encoded, n_instances=10)
learner.teach(typical, requests.intent[typical])
print("Typical:")
print(requests.loc[typical, ["text", "intent"]].to_string(index=False, header=False))
asked = []
for _ in range(10):
    [position] = learner.query()
    asked.append({**requests.loc[position], "taken for": learner.predict(encoded[[position]])[0]})
    learner.teach(position, requests.intent[position])
print("\nUncertain:")
print(pd.DataFrame(asked)[["text", "intent", "taken for"]].to_string(index=False))

# %%
# Fifty labels, with either kind of features
# ------------------------------------------
# There are ten seeds. Each starts with ten random labels and is tested on 120 texts that are never
# queried. The features matter most. With those of the encoder, querying by margin gains a little.

data = {
    "sentence encoder": (encoded, requests.intent),
    "counted words": (counted, requests.intent),
}
curves = compare(
    classifier,
    {"random": RandomSampling(), "margin": MarginSampling()},
    data,
    budget=40,
    score_every=5,
    n_initial=10,
    n_repeats=10,
    random_state=0,
)
display = LearningCurveDisplay.from_simulation(curves, baseline="random", score_name="accuracy")
for ax in display.ax_:
    ax.set_ylim(0, 1)
summary = display.summary().drop(columns="estimator")
print(summary.to_string(index=False, float_format="{:.3f}".format))
plt.show()
