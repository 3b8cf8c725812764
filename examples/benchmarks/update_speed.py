"""How fast is learning? Ratios of both sides, interleaved in one process.

``python examples/benchmarks/update_speed.py [--quick] [--data EMBEDDINGS.npz] [--threads 1]
[--covariance auto shared ...] [--only updates ...]``

The features are synthetic, unit vectors around a centre for each class, or those of the file
(arrays ``features_train`` (n, 384) and ``y_train`` of 77 classes; where there are ten, the first
ten serve). Every row times our side and the other in turn and prints the medians and their ratio,
other over ours: seconds of the processor on one thread, of the clock on several. The textbook loop
is the paper's equations, one label after another in float32. LogisticRegression is as it comes, but
for the prior. laplace-torch is timed if it can be imported, and numba is used if it is installed.
"""

import argparse
import importlib.util
import time
import warnings

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from threadpoolctl import threadpool_limits
from torch import nn

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import SharedPosterior
from laplace_al.model.structures import STRUCTURES

PRIOR_PRECISION = 0.1
DATA = None
CLOCK = time.process_time


def embeddings(n, n_features, n_classes, seed=0):
    """Unit vectors (n, n_features) around the centres of their classes, and labels (n,)."""
    rng = np.random.default_rng(seed)
    if DATA is not None and n_features == 384:
        rows = rng.permutation(np.flatnonzero(DATA["y_train"] < n_classes))[:n]
        X, y = DATA["features_train"][rows], DATA["y_train"][rows]
        return X.astype(np.float64), y.astype(np.int64)
    centres = rng.normal(size=(n_classes, n_features))
    y = rng.permutation(np.arange(n) % n_classes)
    X = centres[y] + 1.5 * rng.normal(size=(n, n_features))
    return X / np.linalg.norm(X, axis=1, keepdims=True), y


def interleaved(ours, theirs, *, repeats, their_repeats=None):
    """Median seconds of two functions called in turn.

    Each turn calls a function twice and times the second call, so that neither side pays for the
    caches and sleeping threads that the other leaves behind.
    """
    times = [], []
    for repeat in range(repeats):
        for function, seconds in zip((ours, theirs), times, strict=True):
            if function is theirs and repeat >= (their_repeats or repeats):
                continue
            function()
            start = CLOCK()
            function()
            seconds.append(CLOCK() - start)
    return [np.median(seconds) for seconds in times]


def report(what, seconds, budget, note=""):
    ours, theirs = seconds
    print(
        f"{what:<64} {1000 * ours:10.3f} ms {1000 * theirs:11.3f} ms {theirs / ours:9.1f}x"
        f"   goal {budget:<12} {note}",
        flush=True,
    )


def textbook_loop(mean, covariance, features, targets):
    """The paper's update in float32: covariance by rank one, then a Newton step, label by label."""
    for phi, y in zip(features, targets, strict=True):
        direction = covariance @ phi
        covariance = covariance - torch.outer(direction, direction) / (1 + phi @ direction)
        p = torch.softmax(phi @ mean, dim=0)
        mean = mean + torch.outer(covariance @ phi, y - p)
    return mean, covariance


def block_update(n_features, repeats):
    n_classes, b = 77, 64
    X, y = embeddings(b, n_features, n_classes)
    likelihood = likelihood_of(n_classes)
    features = torch.from_numpy(X)
    targets = likelihood.encode(torch.from_numpy(y).double())
    weights = torch.ones(b).double()
    prior = SharedPosterior.prior(torch.zeros(n_features, n_classes).double(), 1.0)
    rule = STRUCTURES["shared"].update(
        likelihood, update="newton", curvature="gaussian", step_size=1.0
    )
    single = [tensor.float() for tensor in (prior.mean, prior.covariance, features, targets)]
    seconds = interleaved(
        lambda: prior.condition(features, targets, weights, rule),
        lambda: textbook_loop(*single),
        repeats=repeats,
    )
    budget = ">= 5x" if n_features == 384 else ">= 15x"
    report(f"block of 64, D = {n_features}: textbook loop (float32)", seconds, budget)


def single_label(repeats):
    for n_classes in (10, 77):
        X, y = embeddings(800, 384, n_classes)
        for update in ("newton", "map"):
            clf = LaplaceUpdateClassifier(
                prior_precision=1.0, covariance="shared", update=update
            ).fit(X, y)
            mean, sigma = clf.posterior_.mean, clf.posterior_.covariance
            phi = torch.ones(len(sigma)).double()

            def learn(clf=clf, X=X, y=y):
                clf.partial_fit(X[:1], y[:1])

            if n_classes == 10:

                def bare(sigma=sigma, phi=phi):
                    torch.addr(sigma, sigma @ phi, phi, alpha=-1e-9)

                seconds = interleaved(learn, bare, repeats=repeats)
                what = f"one label, {update}, C = 10: matrix-vector and rank one alone"
                report(what, seconds, ">= 1/4", f"({seconds[0] / seconds[1]:.1f}x of it)")
            else:
                sgd = SGDClassifier(loss="log_loss").fit(X, y)
                seconds = interleaved(
                    learn, lambda sgd=sgd: sgd.partial_fit(X[:1], y[:1]), repeats=repeats
                )
                report(f"one label, {update}, C = 77: SGDClassifier", seconds, "> 1x")
            del mean


def radam(X, y, n_classes, epochs=200):
    """Train a last layer from zero, as the paper retrains."""
    torch.manual_seed(0)
    head = nn.Linear(X.shape[1], n_classes)
    optimizer = torch.optim.RAdam(head.parameters(), lr=0.1, weight_decay=PRIOR_PRECISION / len(X))
    inputs, targets = torch.from_numpy(X).float(), torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(inputs[rows]), targets[rows]).backward()
            optimizer.step()


def again_and_again(clf, X, y):
    """A call that learns the same labels each time, from what clf has learnt so far."""
    state = dict(vars(clf))

    def learn():
        vars(clf).update(state)
        clf.partial_fit(X, y)

    return learn


def new_labels(covariance, repeats, epochs):
    """Learn labels one, ten or a hundred at a time, against a refit on all of them."""
    budgets = {77: (">= 50x", ">= 25x", ">= 5x"), 10: (">= 20x", ">= 8x", ">= 2x")}
    if covariance == "shared":
        budgets[77] = (">= 50x", ">= 100x", ">= 25x")
    for n_classes, n in ((77, 1000), (10, 200)):
        X, y = embeddings(n + 100, 384, n_classes)
        refit = LogisticRegression(C=1 / PRIOR_PRECISION)
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=PRIOR_PRECISION)
        clf.set_params(classes=np.arange(n_classes)).fit(X[:n], y[:n])
        name = f"{covariance}, C = {n_classes}, n = {n}"
        for b, budget in zip((1, 10, 100), budgets[n_classes], strict=True):
            seconds = interleaved(
                again_and_again(clf, X[n : n + b], y[n : n + b]),
                lambda b=b: refit.fit(X[: n + b], y[: n + b]),
                repeats=repeats,
                their_repeats=min(repeats, 7),
            )
            report(f"{b} labels, {name}: LogisticRegression", seconds, budget)
        if n_classes == 10:
            continue
        X, y = X[: n + 10], y[: n + 10]
        learn = again_and_again(clf, X[n:], y[n:])
        seconds = interleaved(
            learn, lambda: radam(X, y, 77, epochs), repeats=repeats, their_repeats=1
        )
        seconds[1] *= 200 / epochs
        report(f"10 labels, {name}: 200 epochs of RAdam", seconds, ">= 1000x")
        clf.set_params(memory_size=None).fit(X[:n], y[:n])
        learn = again_and_again(clf, X[n:], y[n:])
        seconds = interleaved(
            learn, lambda: refit.fit(X, y), repeats=repeats, their_repeats=min(repeats, 7)
        )
        report(f"10 labels, {name}, all remembered: LogisticRegression", seconds, ">= 5x")


def objective(X, y, coef):
    logits = torch.from_numpy(X @ coef.T)
    labels = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return float(loss) + PRIOR_PRECISION / 2 * (coef**2).sum()


def fits(repeats):
    X, y = embeddings(850, 384, 77)
    best = LaplaceUpdateClassifier(prior_precision=PRIOR_PRECISION, fit_intercept=False).fit(X, y)
    least = objective(X, y, best.coef_)

    def logistic(tol):
        twin = LogisticRegression(
            C=1 / PRIOR_PRECISION, fit_intercept=False, tol=tol, max_iter=100_000
        )
        return twin.fit(X, y)

    tol = 1e-4
    while objective(X, y, logistic(tol).coef_) - least > 1e-6:
        tol /= 10
    # the mode and a posterior, no more: leave-one-out of 77 classes is timed on its own
    params = {"prior_precision": PRIOR_PRECISION, "fit_intercept": False, "covariance": "shared"}
    params |= {"calibration": None, "curvature": "categorical"}
    for side, their_tol, our_tol in (
        ("as it comes", 1e-4, 1e-8),
        ("objective to 1e-6", tol, 1e-3),
    ):
        cold = LaplaceUpdateClassifier(tol=our_tol, **params)
        warm = LaplaceUpdateClassifier(tol=our_tol, warm_start=True, classes=np.unique(y), **params)
        warm.fit(X[:800], y[:800]).partial_fit(X[800:], y[800:])
        updated = warm.fitted_

        def refit(warm=warm, updated=updated):
            warm.fitted_ = updated
            warm.fit(X, y)

        for name, fit, budget in (
            ("cold fit", lambda cold=cold: cold.fit(X, y), ">= 4x"),
            ("warm refit after 50 labels", refit, ">= 10x"),
        ):
            seconds = interleaved(fit, lambda t=their_tol: logistic(t), repeats=repeats)
            ours = cold if name == "cold fit" else warm
            gaps = [objective(X, y, clf.coef_) - least for clf in (ours, logistic(their_tol))]
            report(
                f"{name}, n = 850: LogisticRegression, {side}",
                seconds,
                budget,
                f"(objective above the best: ours {gaps[0]:.0e}, theirs {gaps[1]:.0e})",
            )
    default = LaplaceUpdateClassifier(prior_precision=PRIOR_PRECISION)
    cross_validated = CalibratedClassifierCV(
        LogisticRegression(C=1 / PRIOR_PRECISION, max_iter=1000),
        method="temperature",
        cv=3,
        ensemble=False,
    )
    known = np.bincount(y)[y] >= 3  # as many labels as folds
    seconds = interleaved(
        lambda: default.fit(X[known], y[known]),
        lambda: cross_validated.fit(X[known], y[known]),
        repeats=min(repeats, 3),
    )
    report("calibrated fit: LogisticRegression, temperature by 3 folds", seconds, "> 1x")


def predictions(repeats):
    X, y = embeddings(810, 384, 77)
    rows = embeddings(10_000, 384, 77, seed=1)[0]
    theirs = laplace_torch_predictor(X, y)
    for covariance, budget in (("shared", ">= 1000x"), ("per_class", ">= 100x")):
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=PRIOR_PRECISION)
        clf.fit(X, y)
        what = f"predict_proba, {covariance}, a row of 10,000"
        if theirs is None:
            start = CLOCK()
            clf.predict_proba(rows)
            seconds = (CLOCK() - start) / len(rows)
            print(f"{what:<64} {1000 * seconds:10.5f} ms a row (laplace-torch is not installed)")
            continue
        few = torch.from_numpy(rows[:32]).float()
        ours, other = interleaved(
            lambda clf=clf: clf.predict_proba(rows), lambda: theirs(few), repeats=min(repeats, 3)
        )
        report(f"{what}: laplace-torch", (ours / len(rows), other / len(few)), budget)


def laplace_torch_predictor(X, y):
    """Last-layer probit of laplace-torch (Kronecker factors), if it is installed."""
    if importlib.util.find_spec("laplace") is None:
        return None
    from laplace import Laplace

    network = nn.Sequential(nn.Identity(), nn.Linear(X.shape[1], 77))
    data = torch.utils.data.TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(y))
    approximation = Laplace(
        network, "classification", subset_of_weights="last_layer", hessian_structure="kron"
    )
    approximation.fit(torch.utils.data.DataLoader(data, batch_size=128))
    return lambda rows: approximation(rows, link_approx="probit")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few repeats, to see it run")
    parser.add_argument("--data", help="file of embeddings; synthetic ones by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--covariance", nargs="+", default=["auto", "shared"])
    parts = ["blocks", "single", "updates", "fits", "predictions"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    global DATA, CLOCK
    if arguments.data:
        DATA = dict(np.load(arguments.data))
    if arguments.threads > 1:
        CLOCK = time.perf_counter
    torch.set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads):
        compare(arguments)


def compare(arguments):
    quick, parts = arguments.quick, arguments.only
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"features {np.dtype(float)}, prior precision {PRIOR_PRECISION}, "
        f"{'with' if importlib.util.find_spec('numba') else 'without'} numba\n"
        f"{'our side against the other':<64} {'ours':>13} {'other':>14} {'ratio':>10}"
    )
    if "blocks" in parts:
        for n_features in (384, 1024):
            block_update(n_features, repeats=3 if quick else 20)
    if "single" in parts:
        single_label(repeats=20 if quick else 300)
    if "updates" in parts:
        for covariance in arguments.covariance:
            new_labels(covariance, repeats=3 if quick else 15, epochs=2 if quick else 20)
    if "fits" in parts:
        fits(repeats=1 if quick else 5)
    if "predictions" in parts:
        predictions(repeats=1 if quick else 3)


if __name__ == "__main__":
    main()
