"""Graphs of tasks over the blocks of Dask arrays: how they are built and run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dask
import dask.array as da
import dask.distributed  # its defaults, before _CONFIG is set: leaving that would drop them
import numpy as np
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray

from laplace_al.inputs.soft_labels import SoftLabels
from laplace_al.inputs.weighted_labels import check_labels
from laplace_al.integrations.dask.tasks import applied, reduced
from laplace_al.model.rows import Combine

_AT_ONCE = 8  # parts that one task reduces
# What every task needs is sent once, whatever its size: no reason to warn.
_CONFIG = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}


def in_rows(X: da.Array, name: str = "X") -> da.Array:
    """Return an array of known size, not empty, that is cut along its first axis only."""
    if not isinstance(X, da.Array) or X.ndim == 0:
        raise TypeError(
            f"{name} must be a Dask array with a row for each instance; got {type(X).__name__}. "
            "Use dask.array.from_array(X, chunks=(10_000, -1))."
        )
    X = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
    if np.isnan(X.shape[0]):
        X = X.copy().compute_chunk_sizes()  # of a copy, since it changes the array
    if not len(X):
        raise ValueError(f"{name} has 0 rows; a minimum of 1 is required.")
    return X


def blocks_of(X: da.Array) -> list[tuple[Delayed, slice]]:
    """Return the blocks that have rows, and which rows these are."""
    stops = np.cumsum(X.chunks[0]).tolist()
    rows = (slice(a, b) for a, b in zip([0, *stops], stops, strict=False))
    pairs = zip(X.to_delayed().ravel(), rows, strict=True)
    return [(block, some) for block, some in pairs if some.stop > some.start]


def first_rows(X: da.Array) -> Any:
    """Return two rows of the first block that has any."""
    return X.partitions[np.flatnonzero(X.chunks[0])[0]][:2].compute()


def labels_of(
    X: da.Array, y: ArrayLike | da.Array, sample_weight: ArrayLike | da.Array | None
) -> tuple[NDArray[Any] | SoftLabels, NDArray[np.float64]]:
    """Return labels and weights (n_samples,) in memory: they are small beside X."""
    y, sample_weight = dask.compute(y, sample_weight)
    if sample_weight is not None and np.shape(sample_weight) != (X.shape[0],):
        raise ValueError(
            f"sample_weight must have shape ({X.shape[0]},), one weight per row of X; got "
            f"{np.shape(sample_weight)}."
        )
    return check_labels(y, sample_weight, X.shape[0])


def mapped(X: da.Array, method: Callable[[Delayed], Delayed], example: NDArray[Any]) -> da.Array:
    """Return what the method of a node, which makes a row of each row, makes of all blocks."""
    blocks = blocks_of(X)
    sizes = [rows.stop - rows.start for _, rows in blocks]
    return stacked([method(block) for block, _ in blocks], sizes, example)


def stacked(parts: Sequence[Delayed], sizes: Sequence[int], example: NDArray[Any]) -> da.Array:
    """Return the rows of blocks one after the other, which are like those of an example."""
    arrays = [
        da.from_delayed(part, (n, *example.shape[1:]), example.dtype)
        for part, n in zip(parts, sizes, strict=True)
    ]
    return da.concatenate(arrays)


def shipped(thing: Any) -> Delayed:
    """Return a value as a node of its own, which goes to each worker once."""
    return dask.delayed(thing, traverse=False, pure=False)


def computed(node: Delayed) -> Any:
    """Return the result of a node, here."""
    with dask.config.set(_CONFIG):
        return node.compute()


def persisted(nodes: Sequence[Any]) -> tuple[Any, ...]:
    """Return nodes whose results the workers keep."""
    with dask.config.set(_CONFIG):
        return dask.persist(*nodes)


def combined(parts: Sequence[Delayed], combine: Combine) -> Any:
    """Return all parts combined two by two, in a tree: nobody holds more than a few."""
    node, reduce = shipped(combine), dask.delayed(reduced)
    while len(parts) > 1:
        parts = [reduce(node, *parts[i : i + _AT_ONCE]) for i in range(0, len(parts), _AT_ONCE)]
    return computed(parts[0])


class BlocksOnWorkers(NamedTuple):
    """:class:`~laplace_al.model.rows.RemoteBlocks` of labelled rows, with variances once known."""

    blocks: Sequence[tuple[Delayed, ...]]

    def total(self, function: Callable[..., Any], *args: Any, combine: Combine) -> Any:
        """See :meth:`~laplace_al.model.rows.RemoteBlocks.total`."""
        return combined(self._mapped(function, args), combine)

    def with_variances(self, function: Callable[..., Any], *args: Any) -> "BlocksOnWorkers":
        """See :meth:`~laplace_al.model.rows.RemoteBlocks.with_variances`."""
        kept = persisted(self._mapped(function, args))
        pairs = zip(self.blocks, kept, strict=True)
        return BlocksOnWorkers([(block[0], variances) for block, variances in pairs])

    def _mapped(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Delayed]:
        node, apply = shipped(args), dask.delayed(applied)
        return [apply(function, node, *block) for block in self.blocks]
