"""Graphs give the same numbers on a cluster as in one process, and when workers are lost."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from counting_network import CountingNetwork
from dask_blocks import X_BLOCKS, X, assert_up_to_date, close, taught, y
from torch import nn

from laplace_al import LaplaceUpdateClassifier, compare
from laplace_al.integrations import dask as over_blocks
from laplace_al.integrations.dask import pool as pool_module
from laplace_al.strategies import MarginSampling, RandomSampling


def test_parameters_stay_the_objects_that_they_are(client):
    clf = LaplaceUpdateClassifier(nn.Linear(6, 2), classes=["a", "b", "c"])
    before = clf.get_params(deep=False)
    over_blocks.partial_fit(clf, X_BLOCKS, y)
    assert all(value is before[name] for name, value in clf.get_params(deep=False).items())


def test_the_numbers_are_those_of_one_process(client):
    expected = LaplaceUpdateClassifier(tol=1e-11).fit(X, y)
    pool = X_BLOCKS.persist()
    clf = over_blocks.fit(LaplaceUpdateClassifier(tol=1e-11), pool, y)
    close(clf.predict_proba(X), expected.predict_proba(X))
    close(over_blocks.predict_proba(clf, pool).compute(), clf.predict_proba(X))
    strategy = MarginSampling(random_state=0)
    np.testing.assert_array_equal(
        over_blocks.query(strategy, clf, pool, 20), strategy.query(clf, X, 20)
    )
    again = LaplaceUpdateClassifier()
    over_blocks.partial_fit(again, pool, y, classes=["a", "b", "c"])
    with dask.config.set(scheduler="synchronous"):
        here = LaplaceUpdateClassifier()
        over_blocks.partial_fit(here, X_BLOCKS, y, classes=["a", "b", "c"])
    close(again.predict_proba(X), here.predict_proba(X))


def test_the_extractor_goes_to_each_worker_once(client, tmp_path):
    network = CountingNetwork(tmp_path)
    blocks = da.from_array(X, chunks=(100, 6))
    found = over_blocks.features(blocks, network).compute()
    close(found, X)
    unpacked = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
    workers = set(client.run(os.getpid).values())
    assert sorted(pid for pid in unpacked if pid in workers) == sorted(workers)


def test_compare_runs_on_the_cluster(client):
    arguments = {"budget": 6, "n_initial": 6, "n_repeats": 2, "random_state": 0}
    strategies = [RandomSampling(), MarginSampling()]
    expected = compare(LaplaceUpdateClassifier(), strategies, X[:200], y[:200], **arguments)
    with joblib.parallel_config("dask"):
        found = compare(LaplaceUpdateClassifier(), strategies, X[:200], y[:200], **arguments)
    close(found.score.dropna(), expected.score.dropna())
    assert found.strategy.tolist() == expected.strategy.tolist()


def test_a_pool_whose_cluster_was_restarted(client):
    clf = LaplaceUpdateClassifier().fit(X[:60], y[:60])
    pool = over_blocks.Pool(clf, X_BLOCKS).teach([100, 700], y[[100, 700]])
    expected = pool.query(MarginSampling(random_state=0), 5)
    client.restart()
    before = dict(vars(pool))
    for call in (
        lambda: pool.query(MarginSampling(random_state=0)),
        lambda: pool.teach(5, y[5]),
    ):
        with pytest.raises(RuntimeError, match=r"restarted or closed.* Make it anew"):
            call()
    assert vars(pool) == before
    pool = over_blocks.Pool(clf, X_BLOCKS).teach(pool.positions_, pool.labels_)
    found = pool.query(MarginSampling(random_state=0), 5)
    np.testing.assert_array_equal(found, expected)


def test_a_worker_that_is_lost_changes_nothing(client, tmp_path):
    blocks = over_blocks.features(da.from_array(X, chunks=(100, 6)), CountingNetwork(tmp_path))
    clf = LaplaceUpdateClassifier(tol=1e-11).fit(X, y)
    before = client.run(os.getpid)
    victim = next(iter(before.values()))

    def kill():
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)

    timer = threading.Timer(0.5, kill)
    timer.start()
    found = over_blocks.query(MarginSampling(random_state=0), clf, blocks, 20)
    timer.join()
    np.testing.assert_array_equal(found, MarginSampling(random_state=0).query(clf, X, 20))
    client.wait_for_workers(2)
    assert set(client.run(os.getpid).values()) != set(before.values())


def test_a_pool_that_loses_a_worker_is_the_same(client):
    clf = LaplaceUpdateClassifier().fit(X[:60], y[:60])
    pool = taught(over_blocks.Pool(clf, da.from_array(X, chunks=(100, 6))), y, 5)
    victim, pid = next(iter(client.run(os.getpid).items()))
    assert client.has_what()[victim]
    os.kill(pid, signal.SIGKILL)
    client.wait_for_workers(2)
    for _ in range(3):
        positions = pool.query(MarginSampling(random_state=0), 3)
        is_open = np.isin(np.arange(2000), pool.positions_, invert=True)
        expected = MarginSampling(random_state=0).query(pool.classifier_, X, 3, candidates=is_open)
        np.testing.assert_array_equal(positions, expected)
        pool.teach(positions, y[positions])
    assert_up_to_date(pool)
    assert pid not in client.run(os.getpid).values()


def test_what_a_lost_worker_makes_dask_repeat_is_bounded(client, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_FOLLOWED", 4)
    pool = over_blocks.Pool(LaplaceUpdateClassifier().fit(X[:60], y[:60]), X_BLOCKS)
    known = client.cluster.scheduler.tasks
    for i in range(9):
        pool.teach(i, y[i])
        n_followed = sum(str(key).startswith("followed-") for key in list(known))
        assert n_followed <= 2 * 4 * 3  # of three blocks, the last scores until new ones are there
    assert_up_to_date(pool)


def test_defaults_of_the_scheduler_stay_after_the_first_use():
    code = """
import dask
import dask.array as da
from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations import dask as over_blocks
from laplace_al.strategies import MarginSampling
clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
with dask.config.set(scheduler="synchronous"):
    over_blocks.query(MarginSampling(), clf, da.from_array([[-1.0], [1.0]]), 1)
dask.config.get("distributed.worker")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
