import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplace_al._common.stored import Stored
from laplace_al.model.posterior import PerClassPosterior


@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_values_layout_and_dtype_come_back(shape, data, dtype):
    order = data.draw(st.permutations(range(len(shape))))
    tensor = torch.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape).permute(order)
    back = pickle.loads(pickle.dumps(Stored.of(tensor))).tensor()
    assert torch.equal(back, tensor)
    assert (back.dtype, back.device) == (tensor.dtype, tensor.device)
    steps = [
        [step for step, size in zip(one.stride(), one.shape, strict=True) if size > 1]
        for one in (back, tensor)
    ]
    assert steps[0] == steps[1] or 0 in shape


@pytest.mark.parametrize("tensor", [torch.ones(4, 4)[:, ::2], torch.ones(1).expand(3, 2)])
def test_what_has_gaps_or_shares_memory_is_written_out(tensor):
    assert torch.equal(Stored.of(tensor).tensor(), tensor)
    assert Stored.of(tensor).array.size == tensor.numel()


def test_it_owns_its_memory():
    tensor = torch.ones(2)
    stored = Stored.of(tensor)
    stored.tensor()[0] = 5
    assert torch.equal(stored.tensor(), torch.ones(2))


def test_a_pickle_holds_arrays_and_no_cached_results():
    prior = PerClassPosterior.prior(torch.zeros(3, 2), 1.0)
    assert prior.mean.shape == prior.stored_mean.shape  # cached now
    state = prior.__getstate__()
    assert state.keys() == {
        "stored_mean",
        "stored_root",
        "prior_precision",
        "prior_mean",
        "pending",
    }
    assert isinstance(state["stored_root"], Stored)
    assert b"torch" not in pickle.dumps(prior).replace(b"laplace_al", b"")
