"""What comes of the labels in a journal: a list of them, a model, and what it says of all items."""

import contextlib
import pathlib
import sqlite3
import tempfile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laplace_al._common.typing import Path
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.label.items import Items
from laplace_al.label.session import pool_of
from laplace_al.loop.journal import Journal
from laplace_al.loop.learner import ActiveLearner
from laplace_al.loop.record import Record
from laplace_al.strategies import RandomSampling


def read_labels(items: Items, journal: Path) -> pd.DataFrame:
    """The valid labels of a journal, which somebody may be writing to.

    Parameters
    ----------
    items : ImageFolder or Table
    journal : str or path-like

    Returns
    -------
    DataFrame with columns position, label, time, annotator
        Of the items alone: what was taught by value has no position.

    Raises
    ------
    ValueError
        If there is no such journal, or it is of other items.
    """
    path = pathlib.Path(journal)
    if not path.is_file():
        raise ValueError(f"--journal {str(path)!r} does not exist: there is nothing to export.")
    record = Record.empty(len(items))
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)  # which nobody else has open
        _copy_database(path, copy)
        try:
            with contextlib.closing(Journal(copy, pool_of(items))) as opened:
                for batch in opened.batches():
                    record = record.add(batch)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path))) from error
    return record.labels_frame().dropna(subset="position")


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


def learnt(features: NDArray[np.number], labels: pd.DataFrame) -> LaplaceUpdateClassifier:
    """A classifier of features, fitted on all labels.

    Parameters
    ----------
    features : ndarray of shape (n_items, n_features)
    labels : DataFrame with columns position, label

    Returns
    -------
    LaplaceUpdateClassifier

    Raises
    ------
    ValueError
        If there are labels of fewer than two classes.

    Examples
    --------
    >>> labels = pd.DataFrame({"position": [0, 2], "label": ["ham", "spam"]})
    >>> learnt(np.array([[-1.0], [0.5], [1.0]]), labels).predict([[2.0]])
    array(['spam'], dtype='<U4')
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
    """A label for every item, but those whose image cannot be read.

    Parameters
    ----------
    items : ImageFolder or Table
    features : ndarray of shape (n_items, n_features)
    labels : DataFrame with columns position, label
    classifier : LaplaceUpdateClassifier
        See :func:`learnt`.

    Returns
    -------
    DataFrame with columns position, name, label, source, probability
        The source is ``"given"`` where a person gave the label, else ``"predicted"``. The
        probability is what the model says of the label, given or predicted.
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
