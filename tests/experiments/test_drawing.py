import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from laplace_al import LearningCurveDisplay, ReliabilityDisplay

CURVE = pd.DataFrame({"n_labels": [5, 15], "score": [0.5, 0.75]})
X, y, PROBA = [[-1.0], [1.0]], [0, 1], np.array([[0.8, 0.2], [0.3, 0.7]])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: LearningCurveDisplay.from_simulation(CURVE),
        lambda: LearningCurveDisplay(CURVE).plot(),
        lambda: ReliabilityDisplay.from_estimator(LogisticRegression().fit(X, y), X, y),
        lambda: ReliabilityDisplay.from_predictions(y, PROBA),
    ],
)
def test_without_matplotlib(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"Display\..* requires matplotlib\. You can install"):
        draw()
