import numpy as np
import pytest

from laplace_al.labels import check_labels, class_indices, class_weights, distinct_classes


def test_a_single_weight_is_for_all():
    _, weights = check_labels([0, 1, 1], 2.5, 3)
    np.testing.assert_array_equal(weights, [2.5, 2.5, 2.5])


@pytest.mark.parametrize("labels", [["b", "a", "b"], [3, -1, 3], [True, False, True]])
def test_indices_point_into_the_classes(labels):
    y, _ = check_labels(labels, None, 3)
    classes = distinct_classes(labels)
    assert classes.tolist() == sorted(set(labels))
    np.testing.assert_array_equal(classes[class_indices(y, classes)], labels)


def test_weights_of_classes():
    y = np.array([2, 0, 2, 1])
    np.testing.assert_array_equal(class_weights({0: 3.0, 2: 0.5}, y), [0.5, 3.0, 0.5, 1.0])
    np.testing.assert_allclose(class_weights("balanced", y), [2 / 3, 4 / 3, 2 / 3, 4 / 3])
    assert class_weights(None, y) == 1
