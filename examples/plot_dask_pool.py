"""
A pool on a cluster
===================

A network that has learnt the digits 0 to 4 is frozen. Images of the digits 5 to 9 lie in the blocks
of a Dask array on a cluster, here two processes of this machine. The network is sent to each worker
once and computes the features there. A :class:`laplace_al.integrations.dask.Pool` keeps the
features together with the predictions of a :class:`~laplace_al.LaplaceUpdateClassifier`. In each
round only the positions of the ten best images, or of some hundred candidates, come back. The
classifier learns their labels on the client, and the workers update the predictions where they are.

A cluster starts its workers by importing the main file again, so code that must run only once is in
a function behind ``if __name__ == "__main__"``.
"""

import sys
import time

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import torch
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations import dask as on_cluster
from laplace_al.strategies import BADGE, MarginSampling, Preselection, RandomSampling

N_SHIFTS, BUDGET, BATCH = 9, 60, 10


def trained_network(images, digits):
    """A small network that has learnt some digits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(100):
        loss = nn.functional.cross_entropy(network(images), digits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def shifted(images):
    """Each image as it is, and moved by a pixel in eight directions: (9 n, 64)."""
    squares = images.reshape(-1, 8, 8)
    moved = [np.roll(squares, (i, j), axis=(1, 2)) for i in (0, -1, 1) for j in (0, -1, 1)]
    return np.concatenate(moved).reshape(-1, 64)


def curve(strategy, features, labels, start, X_test, y_test):
    """Accuracy after each batch, and seconds of each, its query and labels."""
    clf = LaplaceUpdateClassifier(prior_precision=0.1, covariance="shared").fit(*start)
    pool = on_cluster.Pool(clf, features)
    accuracy, seconds = [clf.score(X_test, y_test)], []
    for _ in range(BUDGET // BATCH):
        begun = time.perf_counter()
        positions = np.sort(pool.query(strategy, BATCH))
        pool.teach(positions, labels[positions])
        seconds.append(time.perf_counter() - begun)
        accuracy.append(pool.classifier_.score(X_test, y_test))
    return accuracy, seconds


def main(figure):
    """Three ways to choose, on the same cluster."""
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    seen = digits < 5
    network = trained_network(torch.tensor(images[seen]), torch.tensor(digits[seen]))
    X_pool, X_test, y_pool, y_test = train_test_split(
        images[~seen], digits[~seen], test_size=0.5, random_state=0
    )
    labels = np.tile(y_pool, N_SHIFTS)
    first = [int(np.flatnonzero(y_pool == digit)[0]) for digit in range(5, 10)]
    ways = {
        "random": RandomSampling(random_state=0),
        "margin": MarginSampling(random_state=0),
        "BADGE among 300 by margin": Preselection(
            BADGE(), MarginSampling(), n_candidates=300, random_state=0
        ),
    }
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        blocks = da.from_array(shifted(X_pool), chunks=(500, 64))
        features = on_cluster.features(blocks, network).persist()
        test = on_cluster.features(da.from_array(X_test, chunks=(500, 64)), network).compute()
        start = features[first].compute(), labels[first]
        curves = {
            name: curve(strategy, features, labels, start, test, y_test)
            for name, strategy in ways.items()
        }
    print(f"{len(labels)} images in {features.numblocks[0]} blocks, two workers\n")
    _, axes = plt.subplots(layout="constrained")
    for name, (accuracy, seconds) in curves.items():
        print(f"{name:26} accuracy {accuracy[-1]:.3f}, a batch {np.median(seconds):.2f} s")
        axes.plot(5 + BATCH * np.arange(len(accuracy)), accuracy, marker="o", label=name)
    axes.set(xlabel="Labels of the digits 5-9", ylabel="Test accuracy", title="A pool on a cluster")
    axes.legend()
    axes.figure.savefig(figure, dpi=150)
    print(f"\nFigure: {figure}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "dask_pool.png")
