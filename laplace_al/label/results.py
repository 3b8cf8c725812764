"""The results of the labels in a journal: a list of them, a model, and its predictions."""

import contextlib
import pathlib
import sqlite3
import tempfile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laplace_al._common.typing import Path
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.label.csv_files import csv_text
from laplace_al.label.items import Items
from laplace_al.label.learner import pool_of
from laplace_al.loop.history import History
from laplace_al.loop.journal import Journal
from laplace_al.loop.learner import ActiveLearner
from laplace_al.strategies import RandomSampling


def read_labels(items: Items, journal: Path) -> pd.DataFrame:
    """Return the valid labels of a journal, which a page may be writing to meanwhile.

    The columns are position, label, time and annotator. Labels of instances from outside the pool
    are left out.
    """
    path = pathlib.Path(journal)
    if not path.is_file():
        raise ValueError(f"--journal {str(path)!r} does not exist: there is nothing to export.")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)  # which nobody else has open
        _copy_database(path, copy)
        try:
            with contextlib.closing(Journal(copy, pool_of(items))) as opened:
                history = History.empty(opened.n_start)
                for batch in opened.batches():
                    history = history.add(batch)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path))) from error
    return history.labels_frame().dropna(subset="position")


def _copy_database(path: pathlib.Path, copy: pathlib.Path) -> None:
    """Copy an SQLite file as it is after the last complete write."""
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
            ) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.DatabaseError as error:
        raise ValueError(f"--journal {str(path)!r} cannot be read: {error}.") from error


def labels_csv(items: Items, labels: pd.DataFrame) -> str:
    """Return labels as CSV: position (from 0), name, label, time (UTC) and annotator."""
    table = labels.dropna(subset="position")
    table.insert(1, "name", [items.names[position] for position in table.position])
    return csv_text(table)


def fit_classifier(features: NDArray[np.number], labels: pd.DataFrame) -> LaplaceUpdateClassifier:
    """Return a classifier of features (n_items, n_features), fitted on all labels.

    ``labels`` has the columns position and label. Fewer than two classes raise ``ValueError``.
    """
    if labels.label.nunique() < 2:
        raise ValueError(
            f"A model needs labels of two classes at least; the journal has {len(labels)} labels "
            f"of {labels.label.nunique()}. Label some more items."
        )
    classifier = LaplaceUpdateClassifier(prior_precision="scale")
    learner = ActiveLearner(classifier, RandomSampling(), features)
    learner.teach(labels.position.to_numpy(dtype=np.int64), np.array(labels.label.tolist()))
    return learner.estimator_


def predictions(
    items: Items,
    features: NDArray[np.number],
    labels: pd.DataFrame,
    classifier: LaplaceUpdateClassifier,
) -> pd.DataFrame:
    """Return a label for every item, but for images that cannot be read and have none.

    The columns are position, name, label, source (``"given"`` by a person, or ``"predicted"``) and
    probability: the model's, of the label that is given or predicted.
    """
    probabilities = classifier.predict_proba(features)  # (n_items, n_classes)
    chosen = probabilities.argmax(axis=1)
    given = labels.position.to_numpy(dtype=np.int64)
    chosen[given] = np.searchsorted(classifier.classes_, np.array(labels.label.tolist()))
    source = np.full(len(items), "predicted", dtype=object)
    source[given] = "given"
    table = pd.DataFrame(
        {
            "position": np.arange(len(items)),
            "name": items.names,
            "label": classifier.classes_[chosen],
            "source": source,
            "probability": probabilities[np.arange(len(items)), chosen],
        }
    )
    return table.drop(index=[i for i in items.unreadable if source[i] == "predicted"])
