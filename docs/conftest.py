"""What the examples of the pages need: a folder to work in, files, and somebody who answers."""

import builtins

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

N_IMAGES = 200
collect_ignore = ["conf.py"]


@pytest.fixture(scope="session")
def digits():
    """Names, features (n, 64) in [0, 1] and labels of small images."""
    pixels, labels = load_digits(return_X_y=True)
    names = [f"{i:04d}.png" for i in range(N_IMAGES)]
    return names, pixels[:N_IMAGES] / 16, labels[:N_IMAGES].astype(str)


@pytest.fixture(autouse=True)
def _at_work(digits, tmp_path, monkeypatch):
    """``embeddings.csv`` and ``images/`` in the current folder, and an annotator to ask."""
    names, features, labels = digits
    columns = [f"e{i}" for i in range(features.shape[1])]
    frame = pd.DataFrame(features, columns=columns, index=pd.Index(names, name="name"))
    frame.to_csv(tmp_path / "embeddings.csv")
    (tmp_path / "images").mkdir()
    for name, row in zip(names, features, strict=True):
        grey = (255 * row.reshape(8, 8)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "images" / name)
    known = dict(zip(names, labels, strict=True))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "input", lambda prompt: str(known[prompt.removesuffix(": ")]))
