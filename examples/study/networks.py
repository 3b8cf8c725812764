"""How much of a network's training does an update of its last layer recover, and when to train?

``python examples/study/networks.py [--data FOLDER] [--sets digits mnist] [--seeds 10]
[--parts gain crossover loop] [--results FOLDER] [--quick]``

``gain``, the protocol of the paper: a small convolutional network is trained from scratch on a few
random labels (RAdam, cosine, 200 epochs); some more labels then come, and are learnt by nothing
("base"), by an update of the last layer, by the paper's update, by a refit of the last layer, or by
training the network again, from scratch or warm. A row of ``networks_gain_SET.csv`` is one of
these: accuracy, log loss, the share of test instances that it predicts otherwise than the network
that was trained again from scratch, and seconds of one thread.

``crossover``: the digits 5 to 9 from a number of random labels, with a network that was trained on
the digits 0 to 4, or on 1000 other images of the digits 5 to 9 where there are so many, and is
frozen; with the first of these trained further on the labels; with a network trained on the labels
from scratch; and without any network. A row of ``networks_crossover_SET.csv`` is one fit.

``loop``: batches of 10 and 50 labels: top-b and the network trained after each batch, one label at
a time with updates in between, and the network trained after each label. Curves of
``networks_loop_SET_BATCH.csv``, in the format of :func:`laplace_al.compare`.

Finished runs are not run again.
"""

import argparse
import copy
import time

import numpy as np
import torch
from datasets import MNIST
from protocol import Rows, add_arguments, record_command
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier, compare
from laplace_al.strategies import BADGE, BAIT, MarginSampling, SequentialBatch

N_EPOCHS, N_EPOCHS_LOOP, N_EPOCHS_QUICK = 200, 60, 10
N_TEST, N_POOL, N_RELATED = 500, 1000, 1000
# labels at the start, and further ones
STARTS = {10: range(1, 11), 50: range(5, 51, 5), 100: range(10, 101, 10)}
SIZES = (10, 20, 50, 100, 200, 400)
PAPER = {
    "prior_precision": 1.0,
    "covariance": "shared",
    "curvature": "gaussian",
    "update": "newton",
    "step_size": 10.0,
    "calibration": None,
}


class Convolutional(nn.Module):
    """Two convolutions, a hidden layer of 64 features and the logits."""

    def __init__(self, size=8, n_outputs=10):
        super().__init__()
        side = (size - 2) // 2 - 2
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3) if side > 0 else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2) if side > 3 else nn.Identity(),
            nn.Flatten(),
        )
        with torch.no_grad():
            n_flat = self.body(torch.zeros(1, 1, size, size)).shape[1]
        self.hidden = nn.Linear(n_flat, 64)
        self.head = nn.Linear(64, n_outputs)

    def forward(self, X):
        """Return the logits (n, n_outputs) of images (n, 1, size, size)."""
        return self.head(torch.relu(self.hidden(self.body(X))))


def net(images, n_outputs, n_epochs, module=Convolutional):
    """A net that is not trained yet; a module that is given starts from its weights."""
    sizes = {"module__size": images.shape[-1], "module__n_outputs": n_outputs}
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.RAdam,
        lr=3e-3,
        max_epochs=n_epochs,
        batch_size=32,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=n_epochs)],
        train_split=None,
        verbose=0,
        **(sizes if module is Convolutional else {}),
    )


def problem(name, folder):
    """Images (n, 1, size, size) in [0, 1] and labels (n,)."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return (X / 16).astype(np.float32).reshape(-1, 1, 8, 8), y
    found = MNIST.read(folder)
    return found["images"][:, None].astype(np.float32) / 255, found["labels"].astype(int)


def seconds(call):
    """What a call returns, and its seconds of one thread."""
    start = time.process_time()
    return call(), time.process_time() - start


def measures(clf, X, y, retrained=None):
    """Accuracy, log loss and, beside a network trained again, the share of other predictions."""
    proba = clf.predict_proba(X)
    found = clf.classes_[proba.argmax(axis=1)]
    flips = np.nan if retrained is None else np.mean(found != retrained.predict(X))
    loss = log_loss(y, proba, labels=clf.classes_)
    return {"accuracy": np.mean(found == y), "nll": loss, "flips": flips}


def gain(images, y, order, n_start, n_new, n_epochs, seed):
    """A row for each way to learn the labels after the first ones."""
    test, start, new = order[-N_TEST:], order[:n_start], order[n_start : n_start + n_new]
    both = np.concatenate([start, new])
    settings = {"classes": range(10), "random_state": seed}
    untrained = LaplaceUpdateClassifier(net(images, 10, n_epochs), train_extractor=True, **settings)
    base = copy.deepcopy(untrained).fit(images[start], y[start])
    trained = base.extractor_.feature_extractor
    paper = LaplaceUpdateClassifier(trained, **settings | PAPER).fit(images[start], y[start])
    last_layer = LaplaceUpdateClassifier(trained, **settings)
    warm = copy.copy(base).set_params(warm_start=True)
    found = {
        "base": (base, 0.0),
        "update": seconds(lambda: copy.copy(base).partial_fit(images[new], y[new])),
        "paper": seconds(lambda: copy.copy(paper).partial_fit(images[new], y[new])),
        "last layer": seconds(lambda: last_layer.fit(images[both], y[both])),
        "warm": seconds(lambda: warm.fit(images[both], y[both])),
        "retrain": seconds(lambda: copy.deepcopy(untrained).fit(images[both], y[both])),
    }
    retrained = found["retrain"][0]
    return [
        {"start": n_start, "new": n_new, "seed": seed, "arm": arm}
        | measures(clf, images[test], y[test], retrained)
        | {"seconds": spent}
        for arm, (clf, spent) in found.items()
    ]


def frozen_networks(images, y, n_epochs, seed):
    """Modules of nets that were trained on other images, by the name of the way to use them.

    Those of the digits 5 to 9 are in none of the rows that :func:`crossover` learns or predicts.
    """
    of_others = np.flatnonzero(y < 5)[:N_RELATED]
    of_the_same = _rows_to_learn(y, seed)[SIZES[-1] : -N_TEST][:N_RELATED]
    modules = {}
    for name, rows in (("frozen, 0 to 4", of_others), ("frozen, 5 to 9", of_the_same)):
        if len(rows) == N_RELATED or rows is of_others:
            untrained = net(images, 5, max(1, n_epochs // 4))
            clf = LaplaceUpdateClassifier(untrained, train_extractor=True, random_state=seed)
            clf.fit(images[rows], y[rows])
            modules[name] = clf.extractor_.feature_extractor.module_
    return modules


def _rows_to_learn(y, seed):
    return np.random.default_rng(seed).permutation(np.flatnonzero(y >= 5))


def crossover(images, y, ways, n_labels, seed):
    """Yield a row for each way to learn the digits 5 to 9 from so many labels."""
    rows = _rows_to_learn(y, seed)
    start, test = rows[:n_labels], rows[-N_TEST:]
    for arm, (extractor, trains) in ways.items():
        clf = LaplaceUpdateClassifier(
            extractor, train_extractor=trains, classes=range(5, 10), random_state=seed
        )
        X = images if extractor is not None else images.reshape(len(images), -1)
        _, spent = seconds(lambda clf=clf, X=X: clf.fit(X[start], y[start]))
        found = measures(clf, X[test], y[test]) | {"seconds": spent}
        yield {"labels": n_labels, "seed": seed, "arm": arm} | found


def crossovers(images, y, sizes, n_epochs, seeds, rows):
    """Write what :func:`crossover` finds, but for what is there already."""
    for seed in tqdm(range(seeds), desc="crossover"):
        modules = frozen_networks(images, y, n_epochs, seed)
        ways = {"no network": (None, False)}
        ways |= {name: (module, False) for name, module in modules.items()}
        further = net(images, 5, n_epochs, modules["frozen, 0 to 4"])
        ways["trained, from 0 to 4"] = further, True
        ways["trained, from scratch"] = net(images, 5, n_epochs), True
        for n_labels in sizes:
            new = {arm: way for arm, way in ways.items() if (n_labels, seed, arm) not in rows}
            for row in crossover(images, y, new, n_labels, seed):
                rows.append([row])


def loop(images, y, batch, n_epochs, seeds, results):
    """Run the loops with batches of so many labels."""
    strategies = {
        "margin": (MarginSampling(), MarginSampling()),
        "BADGE": (BADGE(), BADGE()),
        "BAIT": (BAIT(), BAIT()),
        "predicted labels": (SequentialBatch(MarginSampling()), MarginSampling()),
    }
    ways = {}
    for name, (of_batch, of_one) in strategies.items():
        ways[f"{name}, batch"] = {
            "strategy": of_batch,
            "n_instances": batch,
            "refit_every": batch,
        }
        ways[f"{name}, updates"] = {"strategy": of_one, "refit_every": batch}
        ways[f"{name}, trained after each label"] = {"strategy": of_one, "refit_every": 1}
    clf = LaplaceUpdateClassifier(net(images, 10, n_epochs), train_extractor=True, random_state=0)
    rows = np.random.default_rng(0).permutation(len(y))[: N_POOL + N_TEST]
    compare(
        clf,
        ways,
        images[rows],
        y[rows],
        test_size=N_TEST / len(rows),
        n_repeats=seeds,
        budget=5 * batch,
        score_every=batch,
        n_initial=batch,
        classes=range(10),
        random_state=0,
        results=results,
        verbose=1,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=10)
    parser.add_argument("--sets", nargs="+", default=["digits"], choices=["digits", "mnist"])
    parts = ["gain", "crossover", "loop"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    args = parser.parse_args()
    torch.set_num_threads(1)
    starts, sizes, batches, seeds = STARTS, SIZES, (10, 50), args.seeds
    n_epochs, n_epochs_loop = N_EPOCHS, N_EPOCHS_LOOP
    if args.quick:
        args.sets, starts, sizes, batches, seeds = ["digits"], {10: (5,)}, (10, 50), (2,), 1
        n_epochs = n_epochs_loop = N_EPOCHS_QUICK
    record_command(args.results / "networks.json")
    for name in args.sets:
        images, y = problem(name, args.data)
        if "gain" in args.parts:
            keys = ["start", "new", "seed", "arm"]
            rows = Rows(args.results / f"networks_gain_{name}.csv", keys)
            cells = [(s, n, seed) for s in starts for n in starts[s] for seed in range(seeds)]
            for n_start, n_new, seed in tqdm(cells, desc=f"{name}, gain"):
                if (n_start, n_new, seed, "retrain") not in rows:
                    order = np.random.default_rng(seed).permutation(len(y))
                    rows.append(gain(images, y, order, n_start, n_new, n_epochs, seed))
        if "crossover" in args.parts:
            keys = ["labels", "seed", "arm"]
            rows = Rows(args.results / f"networks_crossover_{name}.csv", keys)
            crossovers(images, y, sizes, n_epochs, seeds, rows)
        if "loop" in args.parts:
            for batch in batches:
                results = args.results / f"networks_loop_{name}_{batch}.csv"
                loop(images, y, batch, n_epochs_loop, seeds, results)


if __name__ == "__main__":
    main()
