import pytest
import torch

from laplace_al.model.posterior.axes import RANK, Axes, axes_of_inverse, principal_axes, sketch

SIZE = 40


def matrices(n_classes=3, n_far=10):
    """Positive definite matrices, of which some eigenvalues are far from 1, and the others near."""
    rng = torch.Generator().manual_seed(0)
    logs = 0.01 * torch.randn(n_classes, SIZE, generator=rng, dtype=torch.float64)
    logs[:, :n_far] += torch.linspace(-3, 3, n_far).double()
    basis = torch.linalg.qr(torch.randn(n_classes, SIZE, SIZE, generator=rng).double()).Q
    return basis @ (logs.exp()[:, :, None] * basis.mT)


def dense(axes):
    """S_k, one by one."""
    V, identity = axes.directions, torch.eye(SIZE).double()
    projections = V.mT @ V
    return axes.spread[:, None, None] * (identity - projections) + V.mT @ (
        axes.variances[:, :, None] * V
    )


def axes_of(precisions, start=None, **options):
    return principal_axes(
        lambda rows, some: rows @ precisions[some],
        precisions.diagonal(dim1=1, dim2=2).sum(dim=1),
        sketch(SIZE, precisions) if start is None else start,
        flat=torch.ones(len(precisions)).double(),
        n_dimensions=SIZE,
        **options,
    )


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_they_are_the_directions_in_which_a_matrix_is_far_from_the_identity(at_once):
    precisions = matrices()
    axes = axes_of(precisions, at_once=at_once)
    assert axes.directions.shape == (3, RANK, SIZE)
    torch.testing.assert_close(
        axes.directions @ axes.directions.mT, torch.eye(RANK).double().expand(3, -1, -1)
    )
    torch.testing.assert_close(dense(axes), torch.linalg.inv(precisions), rtol=0, atol=0.1)
    trace = torch.linalg.inv(dense(axes)).diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(trace, precisions.diagonal(dim1=1, dim2=2).sum(dim=1))


def test_a_start_of_all_directions_finds_the_eigenvectors():
    precisions = matrices()
    axes = axes_of(precisions, start=torch.eye(SIZE).double())
    for k, precision in enumerate(precisions):
        eigenvalues = torch.linalg.eigvalsh(precision)
        far = eigenvalues[eigenvalues.log().abs().argsort(descending=True)[:RANK]]
        torch.testing.assert_close(1 / axes.variances[k], far)


def test_products_and_traces_are_those_of_the_inverses():
    axes = axes_of(matrices())
    inverse, rows = torch.linalg.inv(dense(axes)), torch.randn(3, 5, SIZE).double()
    torch.testing.assert_close(axes.inverse_times(rows), rows @ inverse)
    torch.testing.assert_close(axes.mean_inverse(), inverse.mean(dim=0))
    root = torch.randn(SIZE, SIZE).double()
    expected = (root.T @ inverse @ root).diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(axes.inverse_trace(root), expected)
    V = axes.directions
    identity = torch.eye(SIZE).double()
    torch.testing.assert_close(
        axes.spread[:, None, None] * identity + V.mT @ axes.excess @ V, dense(axes)
    )


def test_among_more_classes():
    axes, other = axes_of(matrices()), Axes.none(1, SIZE, torch.ones(1).double())
    wide = axes.scattered(torch.tensor([0, 2, 3]), other, 5)
    torch.testing.assert_close(dense(wide)[[0, 2, 3]], dense(axes))
    torch.testing.assert_close(dense(wide)[[1, 4]], torch.eye(SIZE).double().expand(2, -1, -1))


def test_those_of_an_inverse_keep_its_trace():
    precision = matrices(1)[0]
    inverse = dense(axes_of_inverse(precision))[0]
    torch.testing.assert_close(inverse.trace(), torch.linalg.inv(precision).trace())
    torch.testing.assert_close(inverse, torch.linalg.inv(precision), rtol=0, atol=0.1)


def test_a_sketch_is_the_same_every_time():
    like = torch.ones(1)
    assert torch.equal(sketch(100, like), sketch(100, like))
    assert torch.equal(sketch(7, like), torch.eye(7))
