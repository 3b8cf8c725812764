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


def make(path, pool=X_pool):
    return ActiveLearner(
        LaplaceUpdateClassifier(),
        MarginSampling(),
        pool,
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


def work_until_killed(path, acknowledged):
    """Two annotators teach, who may disagree, and the pool grows; say what is done."""
    torch.set_num_threads(1)
    learner = make(path, pool_so_far(path))
    rng = np.random.default_rng(len(learner.history_))
    os.write(acknowledged, b"ready\n")
    while True:
        positions = learner.query(2)
        learner.teach(positions, y_pool[positions], annotator="ann")
        os.write(acknowledged, "".join(f"{position} ann\n" for position in positions).encode())
        if rng.random() < 0.5:
            label = rng.random() < 0.9
            label = y_pool[positions[0]] if label else 1 - y_pool[positions[0]]
            learner.teach(positions[0], label, annotator="bob")
            os.write(acknowledged, f"{positions[0]} bob\n".encode())
        if learner.is_open.sum() < 60 or rng.random() < 0.2:
            n = len(learner.X_pool)
            learner.extend_pool(X_pool[n : n + 20])
            os.write(acknowledged, f"{n + 20} extend\n".encode())


def pool_so_far(path):
    """The pool as long as the journal says that it is."""
    if not path.exists():
        return X_pool[:100]
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT value FROM meta WHERE name = 'n_pool'").fetchall()
    connection.close()
    return X_pool[: rows[0][0]]


def killed(path, delay, work=teach_until_killed):
    """What a child acknowledged before it was killed, so many seconds after it was ready."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(path, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert lines.readline() == "ready\n"
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself: is X_pool used up?"
        return lines.read().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_no_acknowledged_label_is_lost_and_none_doubled(tmp_path):
    path = tmp_path / "labels.sqlite"
    delays = np.random.default_rng(1).uniform(0, 0.15, size=N_KILLS)
    known, n_acknowledged, n_unfinished = [], 0, 0
    for delay in delays:
        acknowledged = list(map(int, killed(path, delay)))
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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_nothing_is_lost_of_several_annotators_and_a_growing_pool(tmp_path):
    path = tmp_path / "labels.sqlite"
    make(path, X_pool[:100]).close()
    delays = np.random.default_rng(2).uniform(0, 0.15, size=N_KILLS)
    known, n_acknowledged = [], 0
    for delay in delays:
        done = [line.split() for line in killed(path, delay, work_until_killed)]
        with make(path, pool_so_far(path)) as learner:
            labels, n_pool = learner.labels_, len(learner.X_pool)
            model = learner.predict_proba(X_pool[:50]) if learner.is_fitted else None
        found = list(zip(labels.position, labels.annotator, strict=True))
        assert found[: len(known)] == known
        new, taught = found[len(known) :], [(int(n), who) for n, who in done if who != "extend"]
        assert new[: len(taught)] == taught
        assert len(new) - len(taught) <= 2  # written, and killed before it could say so
        assert len(set(found)) == len(found)
        longest = max([int(n) for n, what in done if what == "extend"], default=100)
        assert longest <= n_pool <= max(longest, len(pool_so_far(path)))
        by_ann = labels[labels.annotator == "ann"]
        np.testing.assert_array_equal(by_ann.label, y_pool[by_ann.position.to_numpy(int)])
        known, n_acknowledged = found, n_acknowledged + len(done)
    with make(path, pool_so_far(path)) as learner:  # the same model, each time
        np.testing.assert_array_equal(learner.predict_proba(X_pool[:50]), model)
    print(
        f"{N_KILLS} kills, {n_acknowledged} calls acknowledged, {len(known)} labels, {n_pool} rows"
    )
    assert {who for _, who in known} == {"ann", "bob"}
    assert n_pool > 100
