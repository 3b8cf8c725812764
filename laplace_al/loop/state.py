"""The state of a learner: published by one assignment, and written to a journal."""

from typing import NamedTuple

from sklearn.utils.validation import _num_samples

from laplace_al._common.typing import Instances, Path
from laplace_al.loop.event import Event
from laplace_al.loop.history import History, stamped
from laplace_al.loop.journal import Journal
from laplace_al.loop.trainer import Trained, Trainer


def extension_to(X_pool: Instances) -> Event:
    """Return the event of a pool that grows to this one."""
    return Event("extend", position=_num_samples(X_pool) - 1)


class State(NamedTuple):
    """An estimator, the pool as it sees it, and the events that both follow from."""

    trained: Trained
    history: History


class DurableState:
    """The state of a learner: all of a call or nothing, in memory and in a journal.

    Readers take ``now`` once, and see the state before or after a call.
    """

    def __init__(self, trained: Trained, history: History) -> None:
        self.now = State(trained, history)
        self.journal: Journal | None = None

    def resume(
        self, path: Path, X_pool: Instances, trainer: Trainer, annotator: str | None
    ) -> None:
        """Open a journal and go on where it ends.

        A refit that is due is made and written, and so is it where the pool is longer than it was.
        """
        self.journal = Journal(path, X_pool)
        start, batches, n_start = self.now, self.journal.batches(), self.journal.n_start
        if n_start < len(start.history.status):  # it has grown since
            start = State(trainer.start(X_pool, n_start), History.empty(n_start))
        trained, history, was_due = trainer.resumed(*start, batches, self.journal.path)
        if was_due and trained.is_fitted:
            history = history.add(stamped([Event("refit")], annotator))
            self.journal.append(history.batches[-1])
        if len(history.status) < _num_samples(X_pool):
            history = history.add(stamped([extension_to(X_pool)], annotator))
            self.journal.append(history.batches[-1], X_pool)
        self.now = State(trained, history)

    def check(self) -> None:
        """Refuse a journal that is closed, replaced or of another process."""
        if self.journal is not None:
            self.journal.check()

    def publish(self, trained: Trained, history: History) -> None:
        """Replace the state, and write the last batch of its history down: both or neither."""
        before, after = self.now, State(trained, history)
        try:
            self.now = after
            if self.journal is not None:
                is_longer = len(history.status) > len(before.history.status)
                self.journal.append(history.batches[-1], trained.pool.X if is_longer else None)
        except BaseException:
            self.now = before
            if self.journal is not None and self.journal.holds(len(history.batches)):
                self.now = after  # an interrupt came when it was written already
            raise

    def close(self) -> None:
        """Release the journal."""
        if self.journal is not None:
            self.journal.close()
