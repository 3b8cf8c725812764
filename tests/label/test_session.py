import contextlib
import csv
import io
import json
import sqlite3
import threading
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.label.items import Table
from laplace_al.label.learner import lookup, open_learner, pool_of
from laplace_al.label.session import AlreadyLabelledError, Session
from laplace_al.strategies import MarginSampling, RandomSampling

X, target = (array[::3] for array in load_iris(return_X_y=True))
y = np.array(["setosa", "versicolor", "virginica"])[target]


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "flowers.csv"
    lines = [f"flower {i},{row[0]}" for i, row in enumerate(X)]
    path.write_text("\n".join(["text,length", *lines]))
    return Table(path, text="text")


@pytest.fixture
def opened(items, tmp_path):
    """Opens sessions on one journal, and closes them in the end."""
    with contextlib.ExitStack() as stack:

        def make(features=X, **kwargs):
            session = Session(items, features, tmp_path / "labels.sqlite", **kwargs)
            stack.callback(session.close)
            return session

        yield make


def asked(session):
    return session.state()["item"]["position"]


def label(session, n_labels):
    """Label what is asked for; its positions."""
    positions = []
    for _ in range(n_labels):
        positions.append(asked(session))
        session.label(positions[-1], y[positions[-1]])
    return positions


def finished(session):
    """State when no estimate is on its way."""
    while session.state()["is_busy"]:
        time.sleep(0.01)
    return session.state()


class TestState:
    def test_the_start(self, opened, items):
        state = opened(classes=["setosa", "rose", "setosa "], note="lengths").state()
        position = state["item"]["position"]
        assert state["item"] == {"position": position, "label": None, **items.describe(position)}
        assert state["upcoming"] not in (None, position)
        assert state["guess"] == state["recent"] == []
        assert state["classes"] == [{"label": "setosa", "count": 0}, {"label": "rose", "count": 0}]
        assert state["counts"] == {"total": 50, "labelled": 0, "skipped": 0}
        assert state["accuracy"]["leave_one_out"] is state["accuracy"]["prequential"] is None
        assert not state["is_busy"]
        assert state["note"] == "lengths"

    def test_it_is_json(self, opened):
        session = opened(classes=["rose"])
        label(session, 12)
        session.skip(asked(session))
        state = finished(session)
        assert json.loads(json.dumps(state, allow_nan=False)) == state

    def test_it_asks_for_what_the_strategy_wants(self, opened, items):
        session = opened(random_state=3)
        classifier = LaplaceUpdateClassifier(prior_precision="scale")
        twin = ActiveLearner(classifier, X_pool=X, random_state=3)
        for n in range(25):
            state = session.state()
            wanted = twin.query(2).tolist()
            assert state["is_random"] == (n in (9, 19))
            if state["is_random"]:
                wanted = [state["item"]["position"], wanted[wanted[0] == state["item"]["position"]]]
            assert [state["item"]["position"], state["upcoming"]] == wanted
            if twin.is_fitted:
                probabilities = twin.predict_proba(X[wanted[:1]])[0]
                best = np.sort(probabilities)[::-1][:3]
                got = [guess["probability"] for guess in state["guess"]]
                np.testing.assert_allclose(got, best, rtol=1e-9)
                assert (
                    state["guess"][0]["label"] == twin.estimator_.classes_[probabilities.argmax()]
                )
            session.label(wanted[0], y[wanted[0]])
            twin.teach(wanted[0], y[wanted[0]])

    def test_it_is_the_same_when_asked_twice(self, opened):
        session = opened()
        label(session, 5)
        assert finished(session) == session.state()

    def test_classes_stay_where_they_came_up(self, opened):
        session = opened(classes=["rose"])
        for position, text in enumerate(["b", "a", "b", "c", "rose"]):
            session.label(position, text)
        session.relabel(1, "d")
        counts = [(each["label"], each["count"]) for each in session.state()["classes"]]
        assert counts == [("rose", 1), ("b", 2), ("c", 1), ("d", 1)]  # a was a slip

    def test_the_last_ones(self, opened):
        session = opened()
        for position in range(20):
            session.label(position, "ab"[position % 2])
        session.skip(30)
        session.relabel(3, "a")
        recent = [(each["position"], each["label"]) for each in session.state()["recent"]]
        assert recent == [(3, "a"), (30, None), *((i, "ab"[i % 2]) for i in range(19, 9, -1))]

    def test_the_end(self, opened):
        session = opened()
        for position in range(49):
            session.label(position, y[position])
        state = session.state()
        assert (state["item"]["position"], state["upcoming"]) == (49, None)
        session.skip(49)
        state = finished(session)
        assert state["item"] is state["upcoming"] is None
        assert state["guess"] == []
        assert state["counts"] == {"total": 50, "labelled": 49, "skipped": 1}
        fitted = LaplaceUpdateClassifier(prior_precision="scale").fit(X[:49], y[:49])
        assert state["accuracy"]["leave_one_out"] == [49, fitted.loo_score_.accuracy]
        session.label(49, "virginica")
        assert session.state()["counts"] == {"total": 50, "labelled": 50, "skipped": 0}

    def test_guesses_are_counted_before_they_are_learnt(self, opened):
        session, hits = opened(), []
        for _ in range(30):
            state = session.state()
            position = state["item"]["position"]
            if state["guess"]:
                hits.append(state["guess"][0]["label"] == y[position])
            session.label(position, y[position])
        accuracy = session.state()["accuracy"]
        assert accuracy["prequential"] == [30, np.mean(hits[-20:])]
        assert accuracy["n_guessed"] == len(hits)
        assert 0 < np.mean(hits[-20:]) < 1

    @pytest.mark.parametrize("strategy", [MarginSampling(), RandomSampling()])
    def test_what_cannot_be_read_is_not_asked_for(self, opened, items, strategy):
        left_out = set(range(0, 50, 2)) | {1}
        items.unreadable = dict.fromkeys(left_out, "It is broken.")
        session = opened(strategy=strategy)
        assert session.state()["counts"]["total"] == 24
        asked_for = label(session, 23)
        assert session.state()["upcoming"] is None
        asked_for += label(session, 1)
        assert set(asked_for) == set(range(50)) - left_out
        assert session.state()["item"] is None
        session.close()
        items.unreadable = {}  # mended
        assert opened().state()["counts"] == {"total": 50, "labelled": 24, "skipped": 0}


class TestRandomItems:
    def test_every_tenth_is_drawn(self, opened):
        session, drawn = opened(), []
        for n in range(49):
            state = session.state()
            assert state["is_random"] == (n % 10 == 9)
            assert state["accuracy"]["n_random"] == len(drawn)
            if n == 19:  # another is drawn in its place
                session.skip(state["item"]["position"])
                state = session.state()
                assert state["is_random"]
            position = state["item"]["position"]
            drawn += [position] if state["is_random"] else []
            session.label(position, y[position])
        assert session.state()["item"] is None
        assert session.state()["accuracy"]["n_random"] == len(drawn)
        session.close()
        assert opened(random_state=5).state()["accuracy"]["n_random"] == len(drawn)

    def test_accuracy(self, opened):
        session, hits = opened(), []
        for n in range(49):
            state = session.state()
            assert session.accuracy() is None
            text = y[state["item"]["position"]]
            if state["is_random"] and n in (19, 29):  # what nobody could guess
                text = f"no {n}"
            if state["is_random"]:
                hits.append(state["guess"][0]["label"] == text)
            session.label(state["item"]["position"], text)
        assert len(hits) == 4
        state = session.state()
        hits.append(state["guess"][0]["label"] == "setosa")
        session.label(state["item"]["position"], "setosa")
        accuracy = session.accuracy()
        assert (accuracy.share, accuracy.n_guesses) == (np.mean(hits), 5)
        assert 0 <= accuracy.low < accuracy.share < accuracy.high <= 1
        assert session.state()["accuracy"]["random"] == accuracy._asdict()
        session.close()
        assert finished(opened(random_state=5))["accuracy"]["random"] == accuracy._asdict()

    def test_a_label_in_its_turn_that_was_not_asked_for(self, opened):
        session = opened()
        label(session, 9)
        other = session.state()["upcoming"]
        session.label(other, y[other])
        assert session.state()["accuracy"]["n_random"] == 0
        assert not session.state()["is_random"]


class TestLabel:
    def test_what_is_labelled_already(self, opened):
        session = opened()
        session.label(7, "a")
        with pytest.raises(AlreadyLabelledError, match="'flower 7' already has the label 'a'"):
            session.label(7, "b")
        with pytest.raises(AlreadyLabelledError):
            session.skip(7)
        assert session.state()["counts"] == {"total": 50, "labelled": 1, "skipped": 0}
        assert session.describe(7)["item"]["label"] == "a"

    def test_one_of_many_at_once_wins(self, opened):
        session, outcomes = opened(), []

        def work(text):
            try:
                session.label(7, text)
                outcomes.append(text)
            except AlreadyLabelledError:
                outcomes.append(None)

        threads = [threading.Thread(target=work, args=[text]) for text in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [text for text in outcomes if text]
        assert len(outcomes) == 8
        assert winners == [session.describe(7)["item"]["label"]]

    def test_it_is_in_the_journal_when_it_returns(self, opened, tmp_path):
        session = opened(annotator="ann")
        session.label(7, "a")
        with sqlite3.connect(tmp_path / "labels.sqlite") as connection:
            rows = connection.execute("SELECT position, key, label, annotator FROM labels")
            assert rows.fetchall() == [(7, "flower 7", "a", "ann")]
        connection.close()

    @pytest.mark.parametrize("position", [-1, 50, 10**8])
    def test_items_that_do_not_exist(self, opened, position):
        session = opened()
        for act in (
            lambda: session.label(position, "a"),
            lambda: session.relabel(position, "a"),
            lambda: session.skip(position),
            lambda: session.describe(position),
            lambda: session.image(position),
        ):
            with pytest.raises(LookupError, match="positions go from 0 to 49"):
                act()

    @pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\x00", "x" * 201, None, 3, ["a"]])
    def test_what_is_no_label(self, opened, text):
        session = opened()
        session.label(0, "a")
        for act in (session.label, session.relabel):
            with pytest.raises(ValueError, match="A label must be a text"):
                act(int(act == session.label), text)
        assert session.state()["counts"]["labelled"] == 1

    def test_a_skipped_item_can_be_labelled(self, opened):
        session = opened()
        session.skip(7)
        session.label(7, "a")
        assert session.state()["counts"] == {"total": 50, "labelled": 1, "skipped": 0}


class TestRelabel:
    def test_corrects(self, opened):
        session = opened()
        label(session, 10)
        position = session.state()["recent"][0]["position"]
        session.relabel(position, "rose")
        assert session.describe(position)["item"]["label"] == "rose"
        assert session.state()["counts"]["labelled"] == 10

    def test_what_has_no_label(self, opened):
        with pytest.raises(ValueError, match="positions that have a label"):
            opened().relabel(7, "a")


def counts(session):
    return {each["label"]: each["count"] for each in session.state()["classes"]}


class TestClasses:
    def test_a_new_name(self, opened):
        session = opened(classes=["setosa", "rose"])
        positions = label(session, 12)
        before = counts(session)
        session.rename("setosa", " Iris setosa ")
        expected = {"Iris setosa" if k == "setosa" else k: n for k, n in before.items()}
        assert counts(session) == expected
        setosas = [i for i in positions if y[i] == "setosa"]
        assert {session.describe(i)["item"]["label"] for i in setosas} == {"Iris setosa"}
        assert next(iter(counts(session))) == "Iris setosa"
        session.close()
        assert counts(opened()) == {k: n for k, n in expected.items() if n}

    def test_into_another(self, opened):
        session = opened()
        for position, text in enumerate(["cat", "cta", "dog", "cta"]):
            session.label(position, text)
        session.rename("cta", "cat")
        assert counts(session) == {"cat": 3, "dog": 1}
        assert {each["label"] for each in session.state()["guess"]} == {"cat", "dog"}
        session.rename("dog", "cat")  # which leaves no model
        assert counts(session) == {"cat": 4}
        assert session.state()["guess"] == []

    @pytest.mark.parametrize("wrong", [5, None, ["setosa"], {}])
    def test_what_is_no_text(self, opened, wrong):
        session = opened()
        label(session, 2)
        for call in (lambda: session.rename(wrong, "rose"), lambda: session.withdraw(wrong)):
            with pytest.raises(ValueError, match="A label must be a text; got "):
                call()

    def test_estimates_of_labels_that_were_withdrawn(self, opened):
        session = opened()
        for position in range(49):
            session.label(position, y[position])
        session.skip(49)
        assert finished(session)["accuracy"]["leave_one_out"][0] == 49
        session.withdraw("setosa")
        session.withdraw("virginica")
        left = session.state()
        assert left["counts"]["labelled"] < 20
        shown = [left["accuracy"]["leave_one_out"] or [0], *left["curve"]["leave_one_out"]]
        assert all(n <= left["counts"]["labelled"] for n, *_ in shown)

    def test_withdrawn(self, opened):
        session = opened(classes=["rose"])
        for position, text in enumerate(["cat", "cta", "dog", "cta"]):
            session.label(position, text)
        session.withdraw("cta")
        session.withdraw("rose")
        assert counts(session) == {"cat": 1, "dog": 1}
        assert session.state()["counts"]["labelled"] == 2
        assert session.describe(3)["item"]["label"] is None
        session.label(3, "cat")

    def test_guesses_of_a_class_that_was_renamed_stay_right(self, opened):
        session = opened()
        label(session, 30)
        before = session.state()["accuracy"]
        assert before["prequential"][1] > 0
        for name in set(y):
            session.rename(name, f"Iris {name}")
            session.rename(f"Iris {name}", f"I. {name}")
        after = session.state()["accuracy"]
        assert after["prequential"] == before["prequential"]
        session.close()
        assert finished(opened())["accuracy"]["prequential"] == before["prequential"]

    def test_what_is_refused(self, opened):
        session = opened()
        label(session, 12)
        before = counts(session)
        with pytest.raises(LookupError, match="There is no label 'rose'"):
            session.rename("rose", "cat")
        with pytest.raises(LookupError, match="There is no label 'rose'"):
            session.withdraw("rose")
        with pytest.raises(ValueError, match="A label must be a text"):
            session.rename("setosa", "")
        assert counts(session) == before

    def test_similar_ones(self, opened):
        session = opened(classes=["blurry", "Blurred", "sharp"])
        session.label(0, "bluRRy")
        assert session.similar("Blurry") == ["blurry", "bluRRy"]
        assert session.similar("blurred") == ["Blurred"]
        assert session.similar(" blurry") == session.similar("dark") == []


class TestResume:
    def test_goes_on_where_it_was(self, opened):
        session = opened(classes=["rose"])
        label(session, 20)
        session.relabel(session.state()["recent"][3]["position"], "setosa")
        session.skip(asked(session))
        before = finished(session)
        assert session.close() == 20
        after = finished(opened(classes=["rose"]))
        sizes = [n for n, _ in after["curve"].pop("leave_one_out")]
        assert sizes == [5, 8, 13, 20]
        assert [n for n, _ in before["curve"].pop("leave_one_out")][-1] == 20
        assert after == before

    def test_with_better_features(self, opened):
        session = opened(features=X[:, :1])
        positions = label(session, 10)
        session.close()
        session = opened(features=X)
        assert session.state()["counts"]["labelled"] == 10
        twin = ActiveLearner(LaplaceUpdateClassifier(prior_precision="scale"), MarginSampling(), X)
        for position in positions:
            twin.teach(position, y[position])
        assert session.state()["guess"][0]["probability"] == pytest.approx(
            twin.predict_proba(X[[asked(session)]]).max(), abs=0.02
        )

    def test_what_was_taken_back_elsewhere(self, opened, items, tmp_path):
        session = opened()
        for position in range(49):
            session.label(position, y[position])
        session.skip(49)
        session.close()
        settings = LaplaceUpdateClassifier(lookup(X)), MarginSampling(), pool_of(items)
        with ActiveLearner(*settings, journal=tmp_path / "labels.sqlite") as learner:
            learner.unlabel([7, 8]).skip(8).unskip(49)
        session = opened()
        state = finished(session)
        assert state["counts"] == {"total": 50, "labelled": 47, "skipped": 1}
        assert {state["item"]["position"], state["upcoming"]} == {7, 49}
        assert session.describe(7)["item"]["label"] is None
        session.label(7, y[7])
        session.label(49, y[49])
        assert session.state()["item"] is None

    def test_journal_in_use(self, opened):
        opened()
        with pytest.raises(RuntimeError, match="in use"):
            opened()

    def test_journal_of_other_items(self, opened, items, tmp_path):
        opened().close()
        items.contents[-1] += "!"
        with pytest.raises(ValueError, match="of another pool"):
            opened()

    def test_a_journal_is_free_after_an_error(self, opened, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(ActiveLearner, "query", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                opened()
        opened()


@pytest.mark.parametrize("labels", [[1, 2], [True, False], [1.0, 2.0]])
def test_labels_that_are_no_texts(opened, items, tmp_path, labels):
    journal = tmp_path / "labels.sqlite"
    with open_learner(items, journal, X) as learner:
        learner.teach([0, 1], labels)
    with pytest.raises(ValueError, match=f"labels that are no texts, such as {labels[0]}, beside"):
        opened()
    with open_learner(items, journal, X) as learner:  # which nobody uses
        assert learner.labels_.label.tolist() == labels


def test_an_annotator_that_is_not_utf8(opened, tmp_path):
    with pytest.raises(ValueError, match=r"annotator must be .* UTF-8 .* got 'Zo\\udceb'"):
        opened(annotator="Zo\udceb")
    assert not (tmp_path / "labels.sqlite").exists()


def test_export(opened):
    session = opened(annotator="ann")
    session.label(7, 'a "cat", or not')
    session.label(3, "b")
    session.relabel(3, "c")
    session.skip(4)
    rows = list(csv.DictReader(io.StringIO(session.export())))
    assert [(row["position"], row["name"], row["label"], row["annotator"]) for row in rows] == [
        ("7", "flower 7", 'a "cat", or not', "ann"),
        ("3", "flower 3", "c", "ann"),
    ]
    assert rows[0]["time"].endswith("+00:00")


def test_export_of_texts_with_carriage_returns(tmp_path):
    path, name = tmp_path / "t.csv", "one\rtwo"
    path.write_bytes(f'text,n\n"{name}",1\nthree,2\n'.encode())
    session = Session(Table(path, text="text"), np.eye(2), tmp_path / "labels.sqlite")
    session.label(0, "a")
    session.label(1, "b")
    text = session.export()
    session.close()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["name"], row["label"]) for row in rows] == [(name, "a"), ("three", "b")]
    table = pd.read_csv(io.StringIO(text, newline=""))
    assert table[["position", "name", "label"]].values.tolist() == [
        [0, name, "a"],
        [1, "three", "b"],
    ]
    assert table.annotator.isna().all()
