"""What happens in an active-learning loop, one action at a time."""

import datetime
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

Action: TypeAlias = Literal["label", "skip", "relabel", "unlabel", "unskip", "extend", "refit"]


class Event(NamedTuple):
    """One action on one instance, an extension of the pool, or a refit.

    ``position`` is None for a refit and for an instance from outside the pool, which is then in
    ``instance``, a container of one row; of an extension, it is the last one of the longer pool.
    ``label`` is plain text or a number, ``time`` has a time zone. ``row`` numbers the labels in the
    order of teaching: it says which one is given, corrected or withdrawn; where it is None,
    the history finds it by the position. A label that is uncertain comes with the
    ``probabilities`` of all that are possible.
    """

    action: Action
    position: int | None = None
    label: Any = None
    time: datetime.datetime | None = None
    annotator: str | None = None
    instance: Any = None
    row: int | None = None
    weight: float = 1.0
    probabilities: tuple[tuple[Any, float], ...] | None = None


Events: TypeAlias = Sequence[Event]
"""The events of one call."""
