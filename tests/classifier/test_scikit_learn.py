import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from classifier_cases import X, arrays, module, same, y
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplace_al import LaplaceUpdateClassifier


class TestScikitLearn:
    def test_pipeline(self):
        pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier(module()))
        assert cross_val_score(pipeline, X[:500], y[:500], cv=3).mean() > 0.7

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_grid_search(self, n_jobs):
        search = GridSearchCV(
            LaplaceUpdateClassifier(),
            {"prior_precision": [1.0, 1e3]},
            scoring="neg_log_loss",
            n_jobs=n_jobs,
            cv=3,
        )
        assert search.fit(X[:300], y[:300]).best_params_ == {"prior_precision": 1.0}

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_grid_search_through_a_pipeline_with_a_network(self, n_jobs):
        network = module()
        pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier(network))
        grid = {"laplaceupdateclassifier__prior_precision": [0.1, 10.0]}
        search = GridSearchCV(pipeline, grid, n_jobs=n_jobs, cv=2).fit(X[:200], y[:200])
        assert search.best_estimator_[-1].feature_extractor is network
        assert search.best_score_ > 0.5

    def test_calibrated_classifier(self):
        clf = CalibratedClassifierCV(LaplaceUpdateClassifier(), cv=3).fit(X[:300], y[:300])
        assert clf.score(X[300:], y[300:]) > 0.8

    @pytest.mark.parametrize("extractor", [None, module()])
    def test_joblib_dump(self, extractor, tmp_path):
        clf = LaplaceUpdateClassifier(extractor).fit(X[:100], y[:100])
        joblib.dump(clf, tmp_path / "clf.joblib")
        twin = joblib.load(tmp_path / "clf.joblib")
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
        twin.partial_fit(X[100:120], y[100:120])

    @pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
    @pytest.mark.parametrize("extractor", [None, module()])
    def test_frames(self, frame, extractor):
        names = [f"pixel {i}" for i in range(64)]
        named = frame(dict(zip(names, X.T, strict=True)))
        labels = pd.Series(y) if frame is pd.DataFrame else pl.Series(y)
        clf = LaplaceUpdateClassifier(extractor).fit(named[:100], labels[:100])
        assert clf.feature_names_in_.tolist() == names
        clf.partial_fit(named[100:150], labels[100:150])
        expected = LaplaceUpdateClassifier(extractor).fit(X[:100], y[:100])
        expected.partial_fit(X[100:150], y[100:150])
        np.testing.assert_array_equal(clf.predict_proba(named), expected.predict_proba(X))
        other = frame(dict(zip(["other", *names[1:]], X.T, strict=True)))
        with pytest.raises(ValueError, match="feature names should match"):
            clf.predict(other)

    def test_read_only_memory_map(self, tmp_path):
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        clf = LaplaceUpdateClassifier().fit(mapped[:100], y[:100])
        clf.partial_fit(mapped[100:150], y[100:150]).predict_proba(mapped)

    def test_set_output_of_transform(self):
        clf = LaplaceUpdateClassifier(module()).set_output(transform="pandas").fit(X, y)
        assert clf.transform(X).columns[-1] == "laplaceupdateclassifier15"

    def test_results_own_their_memory(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100])
        before = arrays(clf)
        for array in (clf.coef_, clf.intercept_, clf.transform(X[:3])):
            array[:] = np.nan
        assert same(before, arrays(clf))

    def test_no_warnings(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LaplaceUpdateClassifier().fit(X, y).partial_fit(X, y).predict_proba(X)
