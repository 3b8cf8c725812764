import datetime
import typing

import numpy as np
import pytest

from laplace_al.loop.event import Action, Event
from laplace_al.loop.history import History
from laplace_al.loop.journal import Journal

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
BEFORE = [Event("label", 0, "a", NOW, row=0), Event("skip", 1, time=NOW)]
POSSIBLE = {
    "label": Event("label", 2, "b", NOW, "ann", row=1, weight=0.5, probabilities=(("b", 1.0),)),
    "skip": Event("skip", 2, time=NOW),
    "relabel": Event("relabel", 0, "b", NOW, row=0),
    "unlabel": Event("unlabel", 0, time=NOW, row=0),
    "unskip": Event("unskip", 1, time=NOW),
    "extend": Event("extend", 4, time=NOW),
    "refit": Event("refit", time=NOW),
}


@pytest.mark.parametrize("action", typing.get_args(Action))
def test_any_action_can_follow_and_comes_back_from_a_journal(action, tmp_path):
    batches = [BEFORE, [POSSIBLE[action]]]
    assert list(map(list, History.empty(3).add_all(batches).batches)) == batches

    X = np.arange(10.0).reshape(5, 2)
    journal = Journal(tmp_path / "labels.sqlite", X[:3])
    journal.append(batches[0])
    journal.append(batches[1], X if action == "extend" else None)
    journal.close()
    again = Journal(journal.path, X if action == "extend" else X[:3])
    assert again.batches() == batches
