"""The learner behind the page, which can go on without it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Path
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.label.features import check_features
from laplace_al.label.items import ImageFolder, Items, Table, open_items
from laplace_al.loop.learner import ActiveLearner
from laplace_al.strategies import QueryStrategy


def open_learner(
    items: Items | Path,
    journal: Path,
    features: ArrayLike,
    strategy: QueryStrategy | None = None,
    **settings: Any,
) -> ActiveLearner:
    r"""Open a journal of the labelling page in an :class:`ActiveLearner`.

    Parameters
    ----------
    items : str or path-like
        The folder of images or the CSV file that was labelled.
    journal : str or path-like
        SQLite file of the labels. It is made if it does not exist, and nobody else may use it.
    features : array-like of shape (n_items, n_features)
        A row for each item, such as the array in the file of ``--cache``.
    strategy : QueryStrategy, default=None
        None: that of :class:`ActiveLearner`.
    **settings : dict
        Other parameters of :class:`ActiveLearner`.

    Returns
    -------
    ActiveLearner
        Its ``X_pool`` is a DataFrame with a row for each item, in the order of ``features``.

    Raises
    ------
    ValueError
        If ``features`` do not have a row for each item, or the journal is of other items.
    RuntimeError
        If somebody else uses the journal.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from laplace_al.label import open_learner
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "mails.csv")
    >>> _ = path.write_text("subject\nWin!\nLunch?\nWin a prize!\n")
    >>> features = np.array([[1.0], [-1.0], [2.0]])
    >>> learner = open_learner(path, path.with_name("labels.sqlite"), features)
    >>> learner.teach([0, 1], ["spam", "ham"]).query()
    array([2])
    >>> learner.close()
    >>> folder.cleanup()
    """
    items = items if isinstance(items, ImageFolder | Table) else open_items(items)
    features = check_features(np.asarray(as_array(features)), len(items), "open_learner")
    return ActiveLearner(
        LaplaceUpdateClassifier(lookup(features), prior_precision="scale"),
        strategy,
        pool_of(items),
        journal=journal,
        **settings,
    )


def pool_of(items: Items) -> pd.DataFrame:
    """Return the pool of a learner: columns position and content, indexed by the items' names.

    A journal is bound to it and not to the features: better ones may be brought later.
    """
    contents = {"position": np.arange(len(items)), "content": items.contents}
    return pd.DataFrame(contents, index=pd.Index(items.names, name="name"))


def lookup(features: NDArray[Any]) -> Callable[[pd.DataFrame], NDArray[Any]]:
    """Return a feature extractor for rows of :func:`pool_of`, to which all features are known."""
    return lambda pool: features[pool["position"].to_numpy()]
