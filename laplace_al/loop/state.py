"""The state of a learner: published by one assignment, and written to a journal."""

from typing import NamedTuple

from laplace_al._common.typing import Instances, Path
from laplace_al.loop.history import Event, History, stamped
from laplace_al.loop.journal import Journal
from laplace_al.loop.trainer import Trained, Trainer


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
        """Open a journal and go on where it ends; a refit that is due is made and written."""
        self.journal = Journal(path, X_pool)
        start, batches = self.now, self.journal.batches()
        trained, history, was_due = trainer.resumed(*start, batches, self.journal.path)
        if was_due and trained.is_fitted:
            history = history.add(stamped([Event("refit")], annotator))
            self.journal.append(history.batches[-1])
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
                self.journal.append(history.batches[-1])
        except BaseException:
            self.now = before
            if self.journal is not None and self.journal.holds(len(history.batches)):
                self.now = after  # an interrupt came when it was written already
            raise

    def close(self) -> None:
        """Release the journal."""
        if self.journal is not None:
            self.journal.close()
