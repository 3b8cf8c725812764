import numpy as np
import pytest

from laplace_al.strategies._checks import candidates_of_block, check_candidates, check_n_instances


def test_no_candidates_named_are_all():
    assert check_candidates(None, 3).tolist() == [True] * 3
    assert candidates_of_block(None, 7, 2).tolist() == [True] * 2


def test_blocks_of_a_mask_make_the_mask():
    mask = np.random.default_rng(0).random(10) < 0.5
    blocks = [candidates_of_block(mask, start, 5) for start in (0, 5)]
    np.testing.assert_array_equal(np.concatenate(blocks), mask)


@pytest.mark.parametrize("wrong", [[0, 1, 2], [True, False], np.ones((3, 1), dtype=bool)])
def test_what_is_no_mask_is_refused(wrong):
    with pytest.raises(ValueError, match="candidates must be a mask of 3 booleans"):
        check_candidates(wrong, 3)
    with pytest.raises(ValueError, match="candidates must be a mask of 3 booleans"):
        candidates_of_block(wrong, 1, 2)


def test_numpy_integers_are_integers():
    assert check_n_instances(np.int32(2), 3) == 2
