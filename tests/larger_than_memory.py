"""What :mod:`tests.test_larger_than_memory` asks, in memory and in a process that has little."""

import pathlib
import sys

import numpy as np
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import BADGE, MarginSampling, Preselection

N_FEATURES = 128


def classifier():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, N_FEATURES)), np.arange(60) % 3
    return LaplaceUpdateClassifier(covariance="shared").fit(X, y)


def answers(clf, pool, blocks):
    """Of a pool at once, and of the same pool as blocks."""
    by = MarginSampling(random_state=0)
    positions, utilities = by.query(clf, pool, 10, return_utilities=True)
    return {
        "positions": positions,
        "utilities": utilities,
        "diverse": Preselection(BADGE(), by, n_candidates=500, random_state=0).query(
            clf, blocks, 10
        ),
        "probabilities": clf.predict_proba(pool[: len(pool) // 4]),
    }


def main(path, room):
    """Write the answers beside the pool, with so many bytes beside what the imports took."""
    import resource  # which Windows has not

    torch.set_num_threads(1)
    clf = classifier()
    clf.predict_proba(np.zeros((1, N_FEATURES)))
    status = pathlib.Path("/proc/self/status").read_text()
    limit = 1024 * int(status.split("VmData:")[1].split()[0]) + room
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    pool = np.memmap(path, np.float32, "r").reshape(-1, N_FEATURES)
    try:
        np.array(pool)
    except MemoryError:
        blocks = (pool[start : start + 999] for start in range(0, len(pool), 999))
        np.savez(f"{path}.npz", **answers(clf, pool, blocks))
    else:
        sys.exit("the pool fits in memory")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
