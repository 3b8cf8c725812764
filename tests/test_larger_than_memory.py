"""A pool four times the size of what a process may still allocate, scored and queried."""

import pathlib
import subprocess
import sys

import larger_than_memory as twin
import numpy as np
import pytest

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds all memory on Linux only")
@pytest.mark.parametrize(
    "room",
    [
        pytest.param(48 * MIB, id="192 MiB"),
        pytest.param(512 * MIB, id="2 GiB", marks=pytest.mark.slow),
    ],
)
def test_the_answer_is_that_of_memory(tmp_path, room):
    shape = room // twin.N_FEATURES, twin.N_FEATURES
    pool = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    pool.tofile(tmp_path / "pool")
    command = [sys.executable, twin.__file__, str(tmp_path / "pool"), str(room)]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = twin.answers(twin.classifier(), pool, pool)
    with np.load(tmp_path / "pool.npz") as found:
        for name in ("positions", "diverse"):
            np.testing.assert_array_equal(found[name], expected[name])
        for name in ("utilities", "probabilities"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-7)
