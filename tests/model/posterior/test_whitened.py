import torch

from laplace_al.model.posterior.axes import Axes
from laplace_al.model.posterior.whitened import MAX_PENDING, Whitened

SIZE, RANK, N_CLASSES = 90, 3, 2


def axes():
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(N_CLASSES, SIZE, RANK, generator=rng, dtype=torch.float64)
    variances = 0.1 + 3 * torch.rand(N_CLASSES, RANK, generator=rng, dtype=torch.float64)
    spread = torch.tensor([0.5, 2.0]).double()
    return Axes(torch.linalg.qr(noise).Q.mT, variances, spread)


def covariance(whitened):
    """S_k, by products with all unit vectors."""
    identity = torch.eye(SIZE).double().expand(N_CLASSES, -1, -1)
    return whitened.covariance_times(identity)


def some_rows(n, seed=1):
    return torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def told(whitened, rows, weights):
    """The Gaussians after Gaussian observations of rows, of such precisions (C, n)."""
    opened = whitened.opened(rows)
    precision = torch.linalg.inv(opened.root @ opened.root.mT)
    inside = rows @ opened.basis.T
    precision = precision + inside.T @ (weights[:, :, None] * inside)
    return opened._replace(root=torch.linalg.cholesky(torch.linalg.inv(precision)))


def test_to_open_directions_changes_nothing():
    whitened = Whitened.of_axes(axes())
    before = covariance(whitened)
    for n in (1, 5, 20):
        whitened = whitened.opened(some_rows(n, n))
        torch.testing.assert_close(covariance(whitened), before)
    assert len(whitened.basis) == 26
    torch.testing.assert_close(whitened.basis @ whitened.basis.T, torch.eye(26).double())


def test_what_labels_tell_is_added_to_the_precision():
    whitened, rows = Whitened.of_axes(axes()), some_rows(12)
    weights = torch.rand(N_CLASSES, 12).double()
    later = told(told(whitened, rows[:5], weights[:, :5]), rows[5:], weights[:, 5:])
    expected = torch.linalg.inv(covariance(whitened)) + rows.T @ (weights[:, :, None] * rows)
    torch.testing.assert_close(covariance(later), torch.linalg.inv(expected))
    for one in (whitened, later):
        dense, others = covariance(one), some_rows(4, 7)
        direct = torch.einsum("nd,kde,ne->kn", others, dense, others)
        torch.testing.assert_close(one.variance(others), direct)
        coloured = one.coloured(torch.eye(SIZE).double().expand(N_CLASSES, -1, -1))
        torch.testing.assert_close(coloured.mT @ coloured, dense)
        torch.testing.assert_close(one.log_determinant(), torch.linalg.slogdet(dense)[1].sum())


def test_rows_that_depend_on_others_open_nothing():
    rows = some_rows(4)
    whitened = Whitened.of_axes(axes()).opened(rows)
    again = torch.cat([rows[:2], 0 * rows[:1], rows[:1] - rows[1:2], some_rows(2, 9)])
    later = whitened.opened(again)
    new = later.basis[4:]
    assert new.any(dim=1).tolist() == [False, False, False, False, True, True]
    assert float((new @ whitened.basis.T).abs().max()) < 1e-12
    torch.testing.assert_close(covariance(later), covariance(whitened))


def test_a_cut_keeps_what_has_so_low_a_rank():
    """Two labels, both of the same weight for all classes: the root of all takes them."""
    whitened, rows = Whitened.of_axes(axes()), some_rows(2)
    later = told(whitened, rows, torch.ones(N_CLASSES, 2).double())
    common, cut = later.cut()
    assert not len(cut.basis)
    way = torch.eye(SIZE).double() + later.basis.T @ (common - torch.eye(2)) @ later.basis
    # t = way t_new; of the precisions nothing is lost but what the spread takes up
    expected = covariance(later)
    found = way @ covariance(cut) @ way.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_with_few_dimensions_all_is_known_from_the_start():
    root = torch.linalg.cholesky(torch.eye(4).double().expand(2, -1, -1) * 3)
    whitened = Whitened.of_roots(root)
    assert whitened.is_whole
    assert whitened.opened(torch.ones(1, 4).double()) is whitened
    assert MAX_PENDING >= 4
