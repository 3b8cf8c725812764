import contextlib

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from laplace_al.label.items import Table
from laplace_al.label.results import fit_classifier, predictions, read_labels
from laplace_al.label.session import Session

X, target = (array[::3] for array in load_iris(return_X_y=True))
y = np.array(["setosa", "versicolor", "virginica"])[target]
LABELLED = [0, 20, 40, 3, 23]


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "flowers.csv"
    path.write_text(
        "\n".join(["text,length", *(f"flower {i},{row[0]}" for i, row in enumerate(X))])
    )
    return Table(path, text="text")


@pytest.fixture
def session(items, tmp_path):
    with contextlib.closing(Session(items, X, tmp_path / "labels.sqlite")) as opened:
        for position in LABELLED:
            opened.label(position, y[position])
        yield opened


class TestReadLabels:
    def test_while_somebody_labels(self, items, session, tmp_path):
        labels = read_labels(items, tmp_path / "labels.sqlite")
        assert labels.position.tolist() == LABELLED
        assert labels.label.tolist() == y[LABELLED].tolist()
        session.label(1, "setosa")
        assert len(read_labels(items, tmp_path / "labels.sqlite")) == 6

    def test_no_journal(self, items, tmp_path):
        with pytest.raises(ValueError, match="does not exist: there is nothing to export"):
            read_labels(items, tmp_path / "none.sqlite")
        assert not (tmp_path / "none.sqlite").exists()

    def test_something_else(self, items, tmp_path):
        path = tmp_path / "labels.txt"
        path.write_text("setosa\n" * 500)
        with pytest.raises(ValueError, match=r"labels\.txt' cannot be read"):
            read_labels(items, path)


def test_what_is_written_is_what_the_model_says(items):
    labels = pd.DataFrame({"position": LABELLED, "label": y[LABELLED]})
    labels.loc[4, "label"] = "setosa"  # which the model need not agree with
    classifier = fit_classifier(X, labels)
    table = predictions(items, X, labels, classifier)
    assert table.position.tolist() == list(range(len(X)))
    assert table.name.tolist() == items.names
    given = table.source == "given"
    assert table.index[given].tolist() == sorted(LABELLED)
    assert table.label[labels.position].tolist() == labels.label.tolist()
    np.testing.assert_array_equal(table.label[~given], classifier.predict(X)[~given])
    columns = np.searchsorted(classifier.classes_, table.label)
    np.testing.assert_array_equal(
        table.probability, classifier.predict_proba(X)[np.arange(len(X)), columns]
    )


def test_labels_of_one_class_make_no_model():
    with pytest.raises(ValueError, match=r"labels of two classes at least; .* 2 labels of 1"):
        fit_classifier(X, pd.DataFrame({"position": [0, 1], "label": ["setosa", "setosa"]}))


def test_an_image_that_cannot_be_read_is_left_out_unless_somebody_labelled_it(items):
    labels = pd.DataFrame({"position": LABELLED, "label": y[LABELLED]})
    items.unreadable = {0: "broken", 1: "broken"}
    table = predictions(items, X, labels, fit_classifier(X, labels))
    assert table.position.tolist() == [0, *range(2, len(X))]
