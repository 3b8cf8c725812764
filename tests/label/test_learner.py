import numpy as np
import pytest
import torch

from laplace_al.label import open_learner
from laplace_al.label.items import Table, open_items
from laplace_al.label.learner import lookup, pool_of
from laplace_al.label.session import Session

X = np.array([[5.0], [6.0], [9.0]])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,n\nred,1\ngreen,2\nblue,4\n")
    return path


def test_features_of_other_items(table):
    with pytest.raises(ValueError, match="open_learner: features must have shape"):
        open_learner(table, table.with_name("l.sqlite"), X[:2])


def test_a_learner_goes_on_where_the_page_stopped(table):
    journal = table.with_name("l.sqlite")
    session = Session(open_items(table, text="text"), X, journal)
    session.label(2, "cold")
    session.label(0, "warm")
    session.close()
    with open_learner(table, journal, torch.tensor(X, requires_grad=True)) as learner:
        assert learner.labels_.label.tolist() == ["cold", "warm"]
        learner.teach(1, "warm")
    again = Session(open_items(table, text="text"), np.eye(3), journal)
    assert again.describe(1)["item"]["label"] == "warm"
    again.close()


def test_pool_and_lookup(table):
    pool = pool_of(Table(table, text="text"))
    assert pool.index[1] == "green"
    np.testing.assert_array_equal(lookup(X)(pool.iloc[[1, 0]]), X[[1, 0]])
