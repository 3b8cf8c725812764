"""Labels of another journal, as those of this one."""

import contextlib
import pathlib

from laplace_al._common.typing import Instances, Path
from laplace_al.loop.consensus import shares_of
from laplace_al.loop.event import Event
from laplace_al.loop.history import History, checked_annotator
from laplace_al.loop.journal import Journal


def labels_to_merge(
    path: Path, X_pool: Instances, history: History, annotator: str | None
) -> list[Event]:
    """Return the valid labels of a journal that a history lacks, as new events.

    ``annotator`` is the name for those without one.
    """
    annotator = checked_annotator(annotator)
    if not pathlib.Path(path).is_file():
        raise ValueError(f"journal={str(path)!r} is no file. Name the journal of a learner.")
    with contextlib.closing(Journal(path, X_pool)) as journal:
        other = History.empty(journal.n_start).add_all(journal.batches())
    known = {_key(event): event for event in history.labelled}
    added, differing = [], []
    for event in other.labelled:
        event = event._replace(
            action="label",
            row=None,
            annotator=annotator if event.annotator is None else event.annotator,
        )
        here = known.get(_key(event))
        if here is None:
            added.append(event)
        elif shares_of(here) != shares_of(event):
            differing.append(event)
    if differing:
        positions = [event.position for event in differing]
        names = sorted({repr(event.annotator) for event in differing})
        raise ValueError(
            f"journal={str(path)!r} has other labels of the same annotators, {', '.join(names)}, "
            f"at the positions {positions}. If they are of somebody else, name them by annotator=; "
            "else call relabel in one of the two first."
        )
    return added


def _key(event: Event) -> tuple[object, ...]:
    """Return what tells a label from others: instance and annotator, or when it was given."""
    if event.position is None:
        return event.time, event.annotator, event.label
    return event.position, event.annotator
