"""``train_extractor=True``: ``fit`` trains the network, ``partial_fit`` updates."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_nets import Perceptron, X, binary_net, small_net, weights, y
from torch import nn

from laplace_al import LaplaceUpdateClassifier
from laplace_al.classifier.classifier import fit_in_blocks

START, LATER = slice(0, 200), slice(200, 260)


def classifier(net=None, **params):
    return LaplaceUpdateClassifier(
        small_net() if net is None else net, train_extractor=True, **params
    )


def net_of(clf):
    return clf.extractor_.feature_extractor


class TestFit:
    @pytest.mark.parametrize("head", ["fit", "pretrained"])
    def test_it_is_that_on_a_frozen_trained_net(self, head):
        clf = classifier(head=head, random_state=3).fit(X[START], y[START])
        torch.manual_seed(3)
        net = small_net().fit(X[START].astype(np.float32), y[START])
        frozen = LaplaceUpdateClassifier(net, head=head, random_state=3).fit(X[START], y[START])
        np.testing.assert_array_equal(clf.predict_proba(X), frozen.predict_proba(X))
        np.testing.assert_array_equal(
            clf.partial_fit(X[LATER], y[LATER]).predict_proba(X),
            frozen.partial_fit(X[LATER], y[LATER]).predict_proba(X),
        )

    def test_it_learns_more_than_a_frozen_untrained_net(self):
        untrained = LaplaceUpdateClassifier(small_net(module__n_hidden=8).initialize())
        clf = classifier(small_net(module__n_hidden=8, max_epochs=60))
        for each in (clf, untrained):
            each.fit(X[:1000], y[:1000])
        assert clf.score(X[1000:], y[1000:]) > untrained.score(X[1000:], y[1000:]) + 0.03

    def test_the_net_that_was_passed_stays_as_it_is(self):
        net = small_net()
        before = dict(vars(net))
        clf = classifier(net).fit(X[START], y[START]).partial_fit(X[LATER], y[LATER])
        assert vars(net) == before
        assert clf.feature_extractor is net
        given = small_net(Perceptron()).initialize()
        before = weights(given)
        classifier(given).fit(X[START], y[START])
        np.testing.assert_array_equal(weights(given), before)

    def test_updates_do_not_train(self):
        clf = classifier().fit(X[START], y[START])
        net, before = net_of(clf), weights(net_of(clf))
        clf.partial_fit(X[LATER], y[LATER])
        assert net_of(clf) is net
        np.testing.assert_array_equal(weights(net), before)

    def test_a_module_starts_anew_or_from_its_weights_or_warm(self):
        once = small_net(max_epochs=1)
        clf = classifier(once).fit(X[START], y[START])
        first = weights(net_of(clf))
        np.testing.assert_array_equal(first, weights(net_of(clf.fit(X[START], y[START]))))
        torch.manual_seed(7)
        instance = small_net(Perceptron(), max_epochs=1)
        start = weights(clone(instance).initialize())
        found = weights(net_of(classifier(instance, random_state=1).fit(X[START], y[START])))
        assert np.abs(found - start).max() < 0.05  # one epoch of steps of 0.01
        clf.set_params(warm_start=True).fit(X[START], y[START])
        second = weights(net_of(clf))
        assert 0 < np.abs(second - first).max() < 0.05

    def test_warm_from_a_fitted_net(self):
        net = small_net().fit(X.astype(np.float32), y)
        clf = classifier(net.set_params(max_epochs=1, lr=1e-9), warm_start=True)
        np.testing.assert_allclose(
            weights(net_of(clf.fit(X[START], y[START]))), weights(net), atol=1e-6
        )

    def test_a_seed_repeats_it_whatever_the_global_one(self):
        torch.manual_seed(11)
        state = torch.get_rng_state()
        found = []
        for seed in (0, 0, 1, None):
            found.append(weights(net_of(classifier(random_state=seed).fit(X[START], y[START]))))
        assert torch.equal(state, torch.get_rng_state())
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[3])
        assert not np.allclose(found[0], found[2])

    def test_a_generator_is_drawn_from_once_a_fit(self):
        generator, twin = np.random.RandomState(4), np.random.RandomState(4)
        clf = classifier(small_net(max_epochs=1), random_state=generator)
        first = weights(net_of(clf.fit(X[START], y[START])))
        second = weights(net_of(clf.fit(X[START], y[START])))
        assert not np.allclose(first, second)
        seeds = [int(twin.randint(2**31)) for _ in range(2)]
        assert generator.randint(100) == twin.randint(100)
        for seed, found in zip(seeds, (first, second), strict=True):
            clf = classifier(small_net(max_epochs=1), random_state=seed)
            np.testing.assert_array_equal(found, weights(net_of(clf.fit(X[START], y[START]))))


class TestLabels:
    @pytest.mark.parametrize("head", ["fit", "pretrained"])
    def test_texts_in_any_order_of_outputs(self, head):
        names = np.array([f"no. {10 - i}" for i in range(10)])[y]  # sorted as text, not as numbers
        clf = classifier(head=head).fit(X[START], names[START])
        plain = classifier(head=head).fit(X[START], np.unique(names, return_inverse=True)[1][START])
        np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))
        order = [f"no. {i}" for i in range(1, 11)]
        told = classifier(head=head, classes=order).fit(X[START], names[START])
        assert told.classes_.tolist() == sorted(order)
        assert told.score(X, names) > 0.6
        head_of_net = net_of(told).module_.head(torch.eye(32)).argmax(1)
        assert len(head_of_net) == 32

    def test_outputs_are_in_the_order_that_was_told(self):
        order = np.arange(10)[::-1]
        clf = classifier(classes=order, head="pretrained").fit(X[START], y[START])
        predicted = order[net_of(clf).predict(X.astype(np.float32))]
        assert (predicted == clf.predict(X)).mean() > 0.9

    def test_classes_that_have_no_label_yet(self):
        few = np.flatnonzero(y < 4)[:100]
        clf = classifier(classes=range(10)).fit(X[few], y[few])
        assert clf.predict_proba(X).shape == (len(X), 10)
        with pytest.raises(ValueError, match="4 outputs for 10 classes"):
            classifier(small_net(module__n_outputs=4), classes=range(10)).fit(X[few], y[few])

    def test_two_classes_with_one_output(self):
        rows = np.flatnonzero(y < 2)
        names = np.array(["no", "yes"])[y[rows]]
        clf = classifier(binary_net(), head="pretrained").fit(X[rows], names)
        assert clf.score(X[rows], names) > 0.97

    def test_weights_are_copies(self):
        counts = np.arange(200) % 3
        net = small_net(max_epochs=2)
        weighted = classifier(net).fit(X[START], y[START], sample_weight=counts)
        repeated = classifier(net).fit(X[START].repeat(counts, axis=0), y[START].repeat(counts))
        np.testing.assert_array_equal(weights(net_of(weighted)), weights(net_of(repeated)))
        np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-5)

    @pytest.mark.parametrize(
        ("params", "fit_params"),
        [({}, {"sample_weight": np.full(200, 0.5)}), ({"class_weight": "balanced"}, {})],
    )
    def test_other_weights_are_refused(self, params, fit_params):
        with pytest.raises(ValueError, match=r"must be integers; got 0.*__criterion__weight="):
            classifier(**params).fit(X[START], y[START], **fit_params)


class TestAllOrNothing:
    @pytest.mark.parametrize("change", [{"lr": 1e30}, {"module__n_outputs": 3}])
    def test_a_failed_training_changes_nothing(self, change):
        generator = np.random.RandomState(0)
        clf = classifier(random_state=generator).fit(X[START], y[START])
        fitted, proba = clf.fitted_, clf.predict_proba(X)
        state = generator.get_state()[1].copy()
        clf.set_params(**{f"feature_extractor__{name}": value for name, value in change.items()})
        with pytest.raises(ValueError, match="feature_extractor"):
            clf.fit(X[START], y[START])
        assert clf.fitted_ is fitted
        np.testing.assert_array_equal(generator.get_state()[1], state)
        np.testing.assert_array_equal(clf.predict_proba(X), proba)

    def test_wrong_inputs_are_refused_before_the_training(self):
        clf = classifier(small_net(max_epochs=10**9))
        for A, b, match in (
            (X[:5], y[:4], "one label per row"),
            (np.full((5, 64), np.nan), y[:5], "NaN"),
            (X[:5], [1] * 5, "at least 2 classes"),
        ):
            with pytest.raises(ValueError, match=match):
                clf.fit(A, b)
        with pytest.raises(ValueError, match="train_extractor"):
            clf.set_params(train_extractor="yes").fit(X, y)

    @pytest.mark.parametrize("extractor", [None, Perceptron(), np.square])
    def test_what_cannot_be_trained(self, extractor):
        with pytest.raises(TypeError, match="train_extractor=True trains a skorch classifier"):
            LaplaceUpdateClassifier(extractor, train_extractor=True).fit(X[START], y[START])

    def test_an_update_before_a_fit_needs_a_trained_net(self):
        with pytest.raises(ValueError, match=r"not fitted\. Call its fit"):
            classifier().partial_fit(X[:5], y[:5], classes=range(10))
        net = small_net().fit(X[START].astype(np.float32), y[START])
        clf = classifier(net).partial_fit(X[START], y[START], classes=range(10))
        assert clf.score(X[200:], y[200:]) > 0.6
        assert net_of(clf) is net

    def test_fits_in_blocks_are_refused(self):
        with pytest.raises(ValueError, match="in blocks does not train the network"):
            fit_in_blocks(classifier(), X[:5], y, None, lambda *_: None)


class TestParameters:
    def test_they_are_those_of_a_nested_estimator(self):
        clf = classifier()
        assert clf.get_params()["feature_extractor__lr"] == 0.01
        assert clf.set_params(feature_extractor__lr=0.5).feature_extractor.lr == 0.5
        twin = clone(clf).set_params(
            feature_extractor__lr=0.1, feature_extractor__module__n_hidden=3
        )
        assert (clf.feature_extractor.lr, twin.feature_extractor.lr) == (0.5, 0.1)
        assert twin.fit(X[START], y[START]).extractor_.transform(X).shape[1] == 3
        frozen = LaplaceUpdateClassifier(small_net().initialize())
        with pytest.raises(ValueError, match="feature_extractor__lr cannot be set"):
            frozen.set_params(feature_extractor__lr=0.5)
        frozen.set_params(train_extractor=True, feature_extractor__lr=0.25)
        assert frozen.feature_extractor.lr == 0.25
        assert clone(frozen).feature_extractor is not frozen.feature_extractor

    def test_a_copy_has_its_own(self):
        clf = classifier().fit(X[START], y[START])
        twin = copy.deepcopy(clf).set_params(feature_extractor__lr=0.5)
        assert clf.feature_extractor.lr == 0.01
        assert net_of(twin) is net_of(clf)  # which is frozen

    def test_a_grid_search_in_a_pipeline(self):
        pipeline = make_pipeline(StandardScaler(), classifier())
        grid = {
            "laplaceupdateclassifier__feature_extractor__lr": [1e-6, 1e-2],
            "laplaceupdateclassifier__prior_precision": [0.1, 1e6],
        }
        search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss")
        search.fit(X[START], y[START])
        best = {name.rpartition("__")[2]: value for name, value in search.best_params_.items()}
        assert best == {"lr": 1e-2, "prior_precision": 0.1}
        assert search.score(X, y) > -1.0

    def test_pickles_and_files(self, tmp_path):
        clf = classifier(head="pretrained").fit(X[START], y[START])
        expected = clf.predict_proba(X)
        twin = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(twin.predict_proba(X), expected)
        clf.save(tmp_path / "clf")
        loaded = LaplaceUpdateClassifier.load(tmp_path / "clf", net_of(clf))
        assert loaded.train_extractor
        np.testing.assert_array_equal(loaded.predict_proba(X), expected)
        for each in (twin, loaded):
            each.partial_fit(X[LATER], y[LATER])
            refitted = each.fit(X[START], y[START]).predict_proba(X)
            np.testing.assert_allclose(refitted, expected, atol=1e-6)
        with pytest.warns(UserWarning, match="has other weights than when the classifier was sav"):
            LaplaceUpdateClassifier.load(tmp_path / "clf", small_net().initialize())

    def test_progress_as_skorch_shows_it(self, capsys):
        classifier(small_net(verbose=1, max_epochs=2)).fit(X[START], y[START])
        assert "train_loss" in capsys.readouterr().out

    def test_images_go_through_a_convolution(self):
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        images = X.reshape(-1, 1, 8, 8)
        clf = classifier(small_net(module, max_epochs=20)).fit(images[START], y[START])
        assert clf.score(images[200:], y[200:]) > 0.75


def test_of_probabilities_a_network_sees_the_most_probable_class():
    probabilities = np.eye(10)[y[:60]] * 0.7 + 0.03
    soft = classifier(classes=range(10)).fit(X[:60], probabilities)
    hard = classifier(classes=range(10)).fit(X[:60], y[:60])
    np.testing.assert_array_equal(weights(net_of(soft)), weights(net_of(hard)))
    assert (soft.predict_proba(X[:60]).max(axis=1) < hard.predict_proba(X[:60]).max(axis=1)).all()
