import pathlib

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def golden():
    """Numbers of the paper's update, made with the authors' published implementation."""
    path = pathlib.Path(__file__).parent / "data" / "update_reference_small.npz"
    with np.load(path) as archive:
        arrays = dict(archive)

    def numbers(likelihood):
        prefix = f"small_{likelihood}_"
        return {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    return numbers
