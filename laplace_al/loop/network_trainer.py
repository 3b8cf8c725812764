"""How labels become a model whose network is trained as well, at each fit."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from laplace_al._common.typing import Path
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.known import Extracted
from laplace_al.loop.event import Events
from laplace_al.loop.history import History
from laplace_al.loop.trainer import LaplaceTrainer, RefitEvery, Trained, Trainer
from laplace_al.loop.training_data import TrainingData


def trainer_of(
    estimator: BaseEstimator, data: TrainingData, refit_every: RefitEvery, verbose: int = 0
) -> Trainer:
    """Return the trainer of an estimator, which is not copied."""
    kind = Trainer
    if isinstance(estimator, LaplaceUpdateClassifier):
        kind = NetworkTrainer if estimator.train_extractor else LaplaceTrainer
    return kind(estimator, data, refit_every, verbose)


class NetworkTrainer(LaplaceTrainer):
    """Trains a LaplaceUpdateClassifier with ``train_extractor``, network included.

    Each fit makes another network, and a pool without features: whoever asks for them next has them
    computed. The estimator and the pool are one value, so that they are always of one network.
    """

    def refitted(self, trained: Trained, history: History) -> Trained:
        """Return the value after the network and its last layer were trained on all labels."""
        if self._goes_on:  # from data that only the estimator knows, which has its network
            return super().refitted(trained, history)
        pool = trained.pool.without_features()
        return super().refitted(trained._replace(is_fitted=False, pool=pool), history)

    def check_pool(self, trained: Trained) -> None:
        """Do nothing: before there is a model, there is no network that makes features."""

    def resumed(
        self, start: Trained, before: History, batches: Sequence[Events], journal: Path
    ) -> tuple[Trained, History, bool]:
        """Return the value and the history after the batches of a journal.

        With ``warm_start`` each network starts from the one before, so that all are trained again.
        """
        fits = [i + 1 for i, batch in enumerate(batches) if _is_refit(batch)]
        if start.estimator.warm_start and not self._goes_on:
            for n_batches in fits[:-1]:
                try:
                    history = before.add_all(batches[:n_batches])
                except ValueError:  # of a journal that is damaged, which is told below
                    break
                start = self.fitted_or_waiting(start, history)
        return super().resumed(start, before, batches, journal)

    def _fitted(
        self, trained: Trained, X: Any, y: Any, weights: NDArray[np.float64] | None = None
    ) -> Any:
        """Return the estimator with a new network, with a prior by the scale of the pool."""
        if self._goes_on:
            return self._gone_on(X, y, weights)
        estimator = copy.deepcopy(trained.estimator)
        if self._start.prior_precision != "scale":
            return estimator.fit(X, y, weights)
        estimator.set_params(prior_precision="scale").fit(X, y, weights)
        estimator.set_params(prior_precision=trained.pool.prior_precision_by_scale(estimator))
        return estimator.fit(Extracted(estimator.transform(X)), y, weights)

    def _check_instances(self, X: Any, name: str, trained: Trained, is_fitted_next: bool) -> None:
        """Refuse instances in another order of columns; the network is yet to be trained."""
        super()._check_instances(X, name, trained, is_fitted_next=True)


def _is_refit(events: Events) -> bool:
    return any(event.action == "refit" for event in events)
