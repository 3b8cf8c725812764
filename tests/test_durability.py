"""A process is killed at random instants: no acknowledged label is lost, none is there twice."""

import os
import signal
import sqlite3
import time

import numpy as np
import pytest
import torch

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling

N_KILLS = 200
rng = np.random.default_rng(0)
X_pool = rng.normal(size=(20_000, 4))
y_pool = (X_pool[:, 0] > 0).astype(int)


def make(path):
    return ActiveLearner(
        LaplaceUpdateClassifier(),
        MarginSampling(),
        X_pool,
        refit_every=20,
        journal=path,
        random_state=0,
    )


def teach_until_killed(path, acknowledged):
    """Teach one or a few labels at a time, and say which as soon as ``teach`` has returned."""
    torch.set_num_threads(1)  # the threads of the parent are not there after a fork
    learner = make(path)
    os.write(acknowledged, b"ready\n")
    for n_instances in [1, 3, 1, 2] * 1000:  # more than the time before the kill allows
        positions = learner.query(n_instances)
        learner.teach(positions, y_pool[positions])
        os.write(acknowledged, "".join(f"{position}\n" for position in positions).encode())


def killed(path, delay):
    """What a child acknowledged before it was killed, so many seconds after it was ready."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            teach_until_killed(path, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert lines.readline() == "ready\n"
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself: is X_pool used up?"
        return [int(line) for line in lines.read().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_no_acknowledged_label_is_lost_and_none_doubled(tmp_path):
    path = tmp_path / "labels.sqlite"
    delays = np.random.default_rng(1).uniform(0, 0.15, size=N_KILLS)
    known, n_acknowledged, n_unfinished = [], 0, 0
    for delay in delays:
        acknowledged = killed(path, delay)
        with make(path) as learner:
            labels = learner.labels_
        positions = labels.position.tolist()
        assert positions[: len(known)] == known
        new = positions[len(known) :]
        assert new[: len(acknowledged)] == acknowledged
        assert len(new) - len(acknowledged) <= 3  # written, and killed before it could say so
        assert len(set(positions)) == len(positions)
        np.testing.assert_array_equal(labels.label, y_pool[positions])
        known = positions
        n_acknowledged += len(acknowledged)
        n_unfinished += len(new) - len(acknowledged)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT position FROM labels").fetchall()
    connection.close()
    assert [position for (position,) in rows] == known
    print(f"{N_KILLS} kills, {n_acknowledged} labels acknowledged, {n_unfinished} more written")
    assert n_acknowledged > 0
