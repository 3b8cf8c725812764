"""Features, fits, updates, predictions and queries over the blocks of a Dask array.

Dask does the scheduling: every function builds a graph of tasks, each a pure function of one block
of rows, and passes it to the active scheduler, a cluster (``dask.distributed.Client()``) or
threads. A network or posterior that tasks need besides their blocks is one node of the graph, which
is sent to each worker once. If a worker is lost, Dask computes its results again, with the same
values.

``simulate`` and ``compare`` need nothing from this module: ``compare`` runs on the cluster within
``with joblib.parallel_config("dask"):``.
"""

from laplace_al.integrations.dask.functions import (
    features,
    fit,
    partial_fit,
    predict_proba,
    query,
)
from laplace_al.integrations.dask.pool import Pool

__all__ = ["Pool", "features", "fit", "partial_fit", "predict_proba", "query"]
