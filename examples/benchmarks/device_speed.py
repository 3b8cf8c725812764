"""What do learning, rescoring and querying cost on a device, against what the device can do?

``python examples/benchmarks/device_speed.py [--device cuda] [--quick]``

The limits are measured on the same device, in turn with our side, in one process: a sum over all
features is one pass at the bandwidth of its memory, the square of a root is a matrix product at its
rate. Features are synthetic and float32, as the posterior is. Every row prints the medians of our
side and of the limit, and their ratio, limit over ours.
"""

import argparse

import numpy as np
import torch
from update_speed import interleaved, report

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import SharedPosterior
from laplace_al.model.structures import STRUCTURES
from laplace_al.strategies import MarginSampling

N_CLASSES = 10


def waited_for(function, device):
    """The function, done when the device is."""

    def call():
        function()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    return call


def timed(ours, limit, device, repeats):
    return interleaved(waited_for(ours, device), waited_for(limit, device), repeats=repeats)


def pool_of(n_pool, n_features):
    """Features (n_pool, n_features), and labels of the first 500."""
    X = np.random.default_rng(0).standard_normal((n_pool, n_features), dtype=np.float32)
    X /= n_features**0.5
    return X, np.arange(500) % N_CLASSES


def rescoring(device, X, y, repeats):
    """A label observed by a pool, and one pass over the features."""
    n_pool, n_features = X.shape
    for covariance in ("shared", "per_class"):
        clf = LaplaceUpdateClassifier(covariance=covariance, device=device, dtype="float32")
        pool = clf.fit(X[:500], y).pool_state(X)
        places = iter(range(n_pool))

        def observe(pool=pool, places=places):
            place = next(places)
            pool.observe(place, place % N_CLASSES)

        seconds = timed(observe, pool.features.sum, device, repeats)
        report(
            f"a label, {covariance}, {n_pool} x {n_features}: a pass over the features",
            seconds,
            ">= 1/2",
            f"({seconds[0] / seconds[1]:.1f}x of it, at {X.nbytes / seconds[1] / 1e9:.0f} GB/s)",
        )


def scoring(device, X, y, repeats):
    """A pool scored anew, and the products with the root at the rate of a large square."""
    n_pool, n_features = X.shape
    clf = LaplaceUpdateClassifier(covariance="shared", device=device, dtype="float32").fit(
        X[:500], y
    )
    pool = clf.pool_state(X)
    square = torch.randn(4096, 4096, device=device)
    anew = timed(
        lambda: pool.elsewhere(pool.features), lambda: square @ square, device, max(3, repeats // 4)
    )
    rate = 2 * len(square) ** 3 / anew[1]
    anew[1] = 2 * n_pool * n_features**2 / rate
    report(
        f"scored anew, shared, {n_pool} x {n_features}: the products",
        anew,
        "",
        f"({anew[0] / anew[1]:.1f}x of them, at {rate / 1e9:.0f} GFLOP/s)",
    )


def rounds(device, X, y, repeats):
    """A query by margin and a label taught, and one pass over the features."""
    n_pool, n_features = X.shape
    learner = ActiveLearner(
        LaplaceUpdateClassifier(covariance="shared", device=device, dtype="float32"),
        MarginSampling(),
        X,
        X_initial=X[:500],
        y_initial=y,
        refit_every=None,
        random_state=0,
    )

    def one_round():
        place = learner.query()
        learner.teach(place, place % N_CLASSES)

    learner.query()
    seconds = timed(one_round, learner.pool_.features.sum, device, repeats)
    report(
        f"query and teach, shared, {n_pool} x {n_features}: a pass",
        seconds,
        "",
        f"({seconds[0] / seconds[1]:.1f}x of it)",
    )


def block_updates(device, n_features, repeats):
    """Labels learnt at once by a shared covariance, and its products at the rate of R @ R."""
    likelihood = likelihood_of(N_CLASSES)
    rule = STRUCTURES["shared"].update(likelihood, update="map", curvature="secant", step_size=1.0)
    prior = SharedPosterior.prior(torch.zeros(n_features, N_CLASSES, device=device), 1.0)
    for n_labels in (64, 256, 1024):
        generator = torch.Generator(device).manual_seed(0)
        features = torch.randn(n_labels, n_features, generator=generator, device=device)
        features /= n_features**0.5
        targets = likelihood.encode(torch.arange(n_labels, device=device) % N_CLASSES).to(features)
        weights = torch.ones(n_labels, device=device)

        def learn(features=features, targets=targets, weights=weights):
            prior.condition(features, targets, weights, rule)

        seconds = timed(learn, lambda: prior.stored_root[0] @ prior.stored_root[0], device, repeats)
        rate = 2 * n_features**3 / seconds[1]
        # F = Phi R, R Q and (R Q (I - T)) Q^T: 2 b D^2 each
        seconds[1] = 6 * n_labels * n_features**2 / rate
        report(
            f"{n_labels} labels at once, D = {n_features}: the products",
            seconds,
            ">= 1/3",
            f"({seconds[0] / seconds[1]:.1f}x of them, at {rate / 1e9:.0f} GFLOP/s)",
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small, to see it run")
    arguments = parser.parse_args()
    device = arguments.device
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads")
    repeats = 3 if arguments.quick else 20
    X, y = pool_of(20_000 if arguments.quick else 1_000_000, 1024)
    rescoring(device, X, y, repeats)
    scoring(device, X, y, repeats)
    rounds(device, X, y, repeats)
    block_updates(device, 512 if arguments.quick else 4096, repeats)


if __name__ == "__main__":
    main()
