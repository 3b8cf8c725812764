"""Threads and processes: the numbers of one after another, the old model or the new one."""

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
import tqdm
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn
from workers import learn_and_predict, n_threads

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, compare, simulate
from laplace_al._common.synchronized import ObjectLock
from laplace_al.strategies import MarginSampling, RandomSampling

X, y = load_digits(return_X_y=True)
X = X / 16
METHODS = ["predict", "predict_proba", "decision_function", "latent_mean_and_variance"]


def network():
    torch.manual_seed(0)
    layers = nn.Linear(64, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 10)
    return nn.Sequential(*layers).double().train()


@pytest.mark.parametrize("make", [lambda: None, network])
@pytest.mark.parametrize("params", [{}, {"predictive": "monte_carlo", "n_samples": 40}])
def test_predictions_in_threads_are_those_of_one_after_another(make, params):
    clf = LaplaceUpdateClassifier(make(), **params).fit(X[:200], y[:200])
    clf.partial_fit(X[200:210], y[200:210])
    tasks = [
        (method, slice(start, start + 50)) for start in range(0, 1000, 50) for method in METHODS
    ]

    def predict(task):
        method, rows = task
        return getattr(clf, method)(X[rows])

    expected = [predict(task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(pool.map(predict, tasks), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    if clf.feature_extractor is not None:
        assert all(module.training for module in clf.feature_extractor.modules())


@pytest.mark.parametrize("make", [lambda: None, network])
@pytest.mark.parametrize("change", ["partial_fit", "fit", "add_classes"])
def test_a_prediction_during_a_change_is_of_the_old_or_the_new_model(make, change):
    """Many changes of classes, mean and temperature at once, and readers in between."""
    clf = LaplaceUpdateClassifier(make(), classes=[0, 1, 2], warm_start=True)
    rows = np.flatnonzero(y < 3)
    clf.fit(X[rows[:30]], y[rows[:30]])
    probe = X[:20]
    published = [clf.predict_proba(probe)]
    seen, errors, done = [], [], threading.Event()

    def read():
        try:
            while not done.is_set():
                seen.append(clf.predict_proba(probe))
                assert len(clf.predict(probe)) == 20
                clf.sample_proba(probe[:2], 3)
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(25):
        if change == "add_classes":
            clf.add_classes(3 + i)
        else:
            some = rows[i + 1 : i + 31]
            getattr(clf, change)(X[some], y[some])
        published.append(clf.predict_proba(probe))
    done.set()
    for reader in readers:
        reader.join()
    assert not errors
    models = {one.tobytes() for one in published}
    assert len(models) == 26
    assert {one.tobytes() for one in seen} <= models


def test_a_pool_is_seen_before_or_after_a_label():
    clf = LaplaceUpdateClassifier().fit(X[:100], y[:100])
    pool = clf.pool_state(X[100:400])
    published, seen, done = [pool.predict_proba()], [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(pool.predict_proba())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(20):
        published.append(pool.observe(i, y[100 + i]).predict_proba())
    done.set()
    reader.join()
    assert {one.tobytes() for one in seen} <= {one.tobytes() for one in published}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8])
@pytest.mark.parametrize("writeable", [True, False])
def test_filters_of_warnings_are_left_alone(dtype, writeable, monkeypatch):
    """They belong to the process: what a thread sets for a while may stay for good."""
    clf = LaplaceUpdateClassifier().fit(X[:150], y[:150])
    pool = (10 * X).astype(dtype)
    pool.setflags(write=writeable)
    monkeypatch.setattr(warnings, "catch_warnings", None)
    clf.pool_state(pool).observe(0, y[0]).predict_proba()
    clf.predict_proba(pool)
    clf.predict_uncertainty(pool)
    MarginSampling().query(clf, pool, 3)


def numbers_of_threads():
    """Of torch, and of each library by its file."""
    libraries = {info["filepath"]: info["num_threads"] for info in threadpool_info()}
    return torch.get_num_threads(), libraries


@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_runs_use_one_thread_and_give_the_others_back(backend):
    """Whichever run of several at once begins first, and whichever ends last."""
    n_torch = torch.get_num_threads()
    settings = {"n_repeats": 4, "n_jobs": 2, "scoring": most_threads}
    strategies = [MarginSampling(), RandomSampling()]
    try:
        torch.set_num_threads(2)
        with threadpool_limits(2), joblib.parallel_config(backend):
            before = numbers_of_threads()
            curves = compare(LaplaceUpdateClassifier(), strategies, X, y, budget=2, **settings)
            assert numbers_of_threads() == before
            assert joblib.Parallel(1)([joblib.delayed(torch.get_num_threads)()]) == [2]
    finally:
        torch.set_num_threads(n_torch)
    assert (curves.score.dropna() == 1).all()


def most_threads(estimator, X, y):
    n_torch, libraries = numbers_of_threads()
    return max(n_torch, *libraries.values())


def test_no_thread_is_started_for_progress_that_is_not_shown(monkeypatch):
    monkeypatch.setattr(tqdm.tqdm, "monitor", None)
    before = threading.active_count()
    LaplaceUpdateClassifier(network()).fit(X[:50], y[:50]).predict(X[:50])
    simulate(LaplaceUpdateClassifier(), RandomSampling(), X[:50], y[:50], X, y, budget=3)
    assert tqdm.tqdm.monitor is None
    assert threading.active_count() == before


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_a_grid_search_finds_what_it_finds_alone(backend):
    grid = {"prior_precision": [0.1, 1.0, 10.0], "covariance": ["shared", "per_class"]}
    search = GridSearchCV(LaplaceUpdateClassifier(network()), grid, cv=2, scoring="neg_log_loss")
    alone = search.fit(X[:150], y[:150]).cv_results_["mean_test_score"]
    with joblib.parallel_backend(backend, n_jobs=2):
        together = search.set_params(n_jobs=2).fit(X[:150], y[:150]).cv_results_["mean_test_score"]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("make", [lambda: None, network])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_workers_of_both_kinds_learn_the_same(method, make):
    clf = LaplaceUpdateClassifier(make()).fit(X[:100], y[:100])
    task = clf, X[100:105], y[100:105], X[:50]
    context = multiprocessing.get_context(method)
    # torch's threads do not outlive a fork, and it waits for them unless it is told to use one
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as pool:
        probabilities = pool.submit(learn_and_predict, *task).result(timeout=120)
    np.testing.assert_allclose(probabilities, learn_and_predict(*task), rtol=1e-10)


@pytest.mark.skipif(os.name != "posix", reason="counts processors")
def test_workers_share_the_processors():
    """joblib tells BLAS and OpenMP, which torch runs on, how many each worker may take."""
    n_processors = joblib.cpu_count()
    counts = joblib.Parallel(n_jobs=2)(
        joblib.delayed(n_threads)(X[:100], y[:100]) for _ in range(2)
    )
    assert all(count <= max(1, n_processors // 2) for counted in counts for count in counted)


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_a_network_runs_in_another_thread_does_not_hang():
    started, goes_on = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 2, dtype=torch.float64)
            self.waits = False

        def forward(self, inputs):
            if self.waits:
                started.set()
                goes_on.wait(0.5)
            return self.head(inputs)

    slow = Slow()
    clf = LaplaceUpdateClassifier(slow).fit(X[:50], y[:50])
    slow.waits = True
    other = threading.Thread(target=clf.predict, args=(X[:1],))
    other.start()
    started.wait()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            slow.waits = False
            clf.predict(X[:1])
            os._exit(0)
        finally:
            os._exit(1)
    goes_on.set()
    other.join()
    for _ in range(300):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


class TestLearner:
    """Threads that share a learner: each of their calls is whole."""

    @pytest.fixture(autouse=True)
    def _many_switches(self):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        yield
        sys.setswitchinterval(before)

    def make(self, journal=None, strategy=None, **params):
        return ActiveLearner(
            LaplaceUpdateClassifier(prior_precision=1.0),
            RandomSampling() if strategy is None else strategy,
            X[:300],
            classes=range(10),
            refit_every=None,
            journal=journal,
            random_state=0,
            **params,
        )

    @pytest.mark.parametrize("with_journal", [False, True])
    def test_no_label_is_lost(self, tmp_path, with_journal):
        path = tmp_path / "labels.sqlite" if with_journal else None
        learner = self.make(path)

        def teach(start):
            for i in range(start, 120, 4):
                learner.teach(i, y[i])
                if i % 3 == 0:
                    learner.relabel(i, (y[i] + 1) % 10)
                elif i % 3 == 1:
                    learner.unlabel(i)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(teach, range(4)))
        expected = {i: (y[i] + (i % 3 == 0)) % 10 for i in range(120) if i % 3 != 1}
        labels = learner.labels_
        assert dict(zip(labels.position, labels.label, strict=True)) == expected
        assert labels.index.is_unique
        learner.close()
        if with_journal:
            with self.make(path) as again:
                assert again.history_.equals(learner.history_)
                np.testing.assert_array_equal(again.predict_proba(X), learner.predict_proba(X))

    def test_only_one_of_two_labels_of_a_position(self):
        learner, refused = self.make(), []

        def teach(label):
            for i in range(60):
                try:
                    learner.teach(i, label)
                except ValueError:
                    refused.append(i)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(teach, range(3)))
        assert sorted(refused) == sorted([*range(60), *range(60)])
        assert sorted(learner.labels_.position) == list(range(60))

    def test_queries_while_others_teach(self):
        learner, done = self.make(strategy=MarginSampling()), threading.Event()
        learner.teach(range(200, 220), y[200:220])

        def query():
            n_queries = 0
            while not done.is_set():
                known = set(learner.labels_.position)
                positions = learner.query(7).tolist()
                assert len(set(positions)) == 7
                assert not known & set(positions)
                assert learner.predict_proba(X[:5]).shape == (5, 10)
                assert len(learner.instances_) >= len(known)
                learner.strategy = RandomSampling() if n_queries % 2 else MarginSampling()
                n_queries += 1
            return n_queries

        with ThreadPoolExecutor(3) as pool:
            counts = [pool.submit(query) for _ in range(3)]
            try:
                for i in range(60):
                    learner.teach(i, y[i])
                learner.skip(150).unskip(150).refit()
            finally:
                done.set()
            assert all(count.result() > 0 for count in counts)

    def test_a_model_and_its_pool_are_seen_together(self):
        learner, done = self.make(), threading.Event()
        learner.teach(range(200, 220), y[200:220])

        def read():
            while not done.is_set():
                trained, history = learner._state.now
                assert trained.n_updates == len(history.labelled) - 20

        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(read)
            try:
                for i in range(150):
                    learner.teach(i, y[i])
            finally:
                done.set()
            seen.result()

    @pytest.mark.skipif(os.name != "posix", reason="forks")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_fork_while_another_thread_teaches(self, tmp_path):
        """The child does not wait for a thread that it has not; with a journal, it is refused."""
        alone, kept = self.make(), self.make(tmp_path / "labels.sqlite")
        has_it, goes_on = threading.Event(), threading.Event()

        def hold():
            with alone._lock, kept._lock:
                has_it.set()
                goes_on.wait()

        other = threading.Thread(target=hold)
        other.start()
        has_it.wait()
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                signal.alarm(60)
                alone.teach(0, y[0])
                with pytest.raises(RuntimeError, match="process that this one was forked"):
                    kept.teach(0, y[0])
                assert len(kept.labels_) == 0
                os._exit(0)
            finally:
                os._exit(1)
        goes_on.set()
        other.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert kept.teach(0, y[0]).labels_.position.tolist() == [0]
        kept.close()
        with self.make(tmp_path / "labels.sqlite") as again:
            assert again.labels_.position.tolist() == [0]

    def test_copies_do_not_wait_for_each_other(self):
        learner = self.make().teach(0, y[0])
        twin = copy.deepcopy(learner)
        done = threading.Thread(target=lambda: twin.teach(1, y[1]), daemon=True)
        with learner._lock:
            done.start()
            done.join(60)
        assert not done.is_alive()
        assert isinstance(pickle.loads(pickle.dumps(learner))._lock, ObjectLock)
