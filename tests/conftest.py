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


@pytest.fixture(scope="session")
def evidence_golden():
    """Evidence of laplace-torch 0.3 (last layer, full Hessian) at the modes of three priors."""
    path = pathlib.Path(__file__).parent / "data" / "evidence_reference.npz"
    with np.load(path) as archive:
        arrays = dict(archive)

    def numbers(n_classes):
        """Features, labels and (prior precision, W, log evidence) for each prior precision."""
        evidence = [
            (
                float(name.split("_")[1]),
                torch.from_numpy(arrays[name.replace("evidence", "W")]),
                float(value),
            )
            for name, value in arrays.items()
            if name.startswith(f"evidence{n_classes}_")
        ]
        return arrays["X"], arrays[f"y{n_classes}"], evidence

    return numbers
