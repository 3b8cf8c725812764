"""What several labels of one instance come to."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from laplace_al.loop.event import Event


def shares_of(event: Event) -> dict[Any, float]:
    """Return the probability of each label that an event makes possible."""
    return {event.label: 1.0} if event.probabilities is None else dict(event.probabilities)


def certain_or_not(shares: dict[Any, float]) -> tuple[Any, tuple[tuple[Any, float], ...] | None]:
    """Return the most probable label, and the probabilities of all if there are several."""
    possible = tuple((label, share) for label, share in shares.items() if share > 0)
    label = max(possible, key=lambda pair: pair[1])[0]
    return label, None if len(possible) == 1 else possible


def agreed(events: Sequence[Event]) -> Event:
    """Return the one label that some of the same instance come to.

    The probability of a class is the share of the votes for it, by weight; the weight is the mean.
    """
    if len(events) == 1:
        return events[0]
    total = sum(event.weight for event in events)
    votes: dict[Any, float] = {}
    for event in events:
        for label, share in shares_of(event).items():
            votes[label] = votes.get(label, 0.0) + share * event.weight / total
    label, probabilities = certain_or_not(votes)
    return events[0]._replace(
        label=label, probabilities=probabilities, weight=total / len(events), annotator=None
    )


def is_same_label(one: Event, other: Event) -> bool:
    """Return whether two events teach the same of an instance."""
    return shares_of(one) == shares_of(other) and one.weight == other.weight


def probabilities_frame(events: Sequence[Event]) -> pd.DataFrame:
    """Return the probabilities (n, n_classes) of the labels of events, a column for each class."""
    shares = [shares_of(event) for event in events]
    classes = np.unique(np.array([label for each in shares for label in each]))
    places = {label: k for k, label in enumerate(classes.tolist())}
    probabilities = np.zeros((len(events), len(classes)))
    for row, each in zip(probabilities, shares, strict=True):
        for label, share in each.items():
            row[places[label]] = share
    return pd.DataFrame(probabilities, columns=pd.Index(classes.tolist()))


def possible_labels(events: Iterable[Event]) -> list[Any]:
    """Return all labels that events make possible, as often as they do."""
    return [label for event in events for label in shares_of(event)]
