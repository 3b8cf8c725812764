"""The weights of each class in the coordinates in which their mean precision is the identity."""

from typing import NamedTuple

import torch

from laplace_al.model.posterior.axes import Axes, principal_axes, sketch

MAX_PENDING = 64
"""Labels after which they are worked into the axes; with no more features, nothing is ever cut."""

_AT_ONCE = 256  # rows, of which numbers for all classes are held
_N_NEW = 4  # axes that a cut looks for beside the old ones
_LEFT = 1e-6  # of the square of an axis, outside of the span of the labels


class Whitened(NamedTuple):
    """Gaussians over the whitened weights t (D,) of each class: axes, and labels since their cut.

    The ``basis`` Q (b, D) has orthonormal rows, the same for all classes, that span the whitened
    features of these labels: of t, they inform y = Q t alone. Its covariance is L_k L_k^T with the
    ``root`` L (C, b, b), and its mean the ``shift`` m (C, b). What u^T t is, with u orthogonal to
    Q, is known by the axes: given y it has the mean a^T H_k y and the variance g_k u^T u + a^T P_k
    a, where a = V_k u (r,), with the ``gain`` H (C, r, b) and the ``rest`` P (C, r, r).

    So nothing is subtracted from what labels tell, and what they add has no D numbers for each
    class.
    """

    axes: Axes
    basis: torch.Tensor
    root: torch.Tensor
    gain: torch.Tensor
    rest: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of_axes(cls, axes: Axes) -> "Whitened":
        """Return what axes tell, before any label."""
        (n_classes, rank, size), new = axes.directions.shape, axes.directions.new_zeros
        empty = new(n_classes, 0, 0), new(n_classes, rank, 0), axes.excess, new(n_classes, 0)
        return cls(axes, new(0, size), *empty)

    @classmethod
    def of_roots(cls, root: torch.Tensor) -> "Whitened":
        """Return Gaussians of any covariances L L^T, from roots (C, D, D)."""
        (n_classes, size, _), new = root.shape, root.new_zeros
        axes = Axes.none(n_classes, size, root)
        gain = new(n_classes, 0, size)
        return cls(axes, identity(root[0]), root, gain, axes.excess, new(n_classes, size))

    @property
    def is_whole(self) -> bool:
        """Whether y is all of t, so that nothing is ever to be cut."""
        return self.basis.shape[0] == self.basis.shape[1]

    @property
    def n_free(self) -> int:
        """Number of labels until a cut."""
        return MAX_PENDING - len(self.basis)

    @property
    def mean(self) -> torch.Tensor:
        """Mean of t, (C, D)."""
        return self.given(self.shift[:, None])[:, 0]

    def given(self, inside: torch.Tensor) -> torch.Tensor:
        """Return the mean of t (C, q, D), given y (C, q, b)."""
        outside = (inside @ self.gain.mT) @ self.axes.directions
        return outside + (inside - outside @ self.basis.T) @ self.basis

    def of_classes(self, some: slice) -> "Whitened":
        """Return the Gaussians of some classes."""
        axes, basis, *parts = self
        return Whitened(axes.of_classes(some), basis, *(part[some] for part in parts))

    def centred(self) -> "Whitened":
        """Return the same covariances around 0."""
        return self._replace(shift=torch.zeros_like(self.shift))

    def variance(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the variances (C, n) of w^T t, for rows w (n, D)."""
        directions, known = self.axes.directions.mT, self.gain @ self.root
        return torch.cat(
            [self._variance(some, directions, known) for some in rows.split(_AT_ONCE)], 1
        )

    def _variance(
        self, rows: torch.Tensor, directions: torch.Tensor, gain: torch.Tensor
    ) -> torch.Tensor:
        inside, outside = self._split(rows)
        inner = _of_each(outside, directions)  # (C, n, r)
        known = torch.baddbmm(_of_each(inside, self.root), inner, gain)
        own = ((inner @ self.rest) * inner).sum(dim=2)
        own += self.axes.spread[:, None] * outside.square().sum(dim=1)
        return known.square_().sum(dim=2) + own.clamp_min_(0)

    def square(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of w_k^T S_k w_k, for a row of each class (C, D)."""
        inside, outside = self._split(rows[:, None])
        inner = outside @ self.axes.directions.mT
        known = (inside + inner @ self.gain) @ self.root
        own = ((inner @ self.rest) * inner).sum()
        own = own + self.axes.spread @ outside.square().sum(dim=(1, 2))
        return known.square().sum() + own.clamp_min(0)

    def covariance_times(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows (C, q, D) by the covariances S_k of t."""
        inside, outside = self._split(rows)
        inner = outside @ self.axes.directions.mT
        known = (inside + inner @ self.gain) @ self.root @ self.root.mT
        own = (inner @ self.rest) @ self.axes.directions
        own = own - (own @ self.basis.T) @ self.basis
        return self.given(known) + own + self.axes.spread[:, None, None] * outside

    def coloured(self, noise: torch.Tensor) -> torch.Tensor:
        """Multiply rows (C, q, D) by a root of each covariance."""
        V, variances, spread = self.axes
        flat = spread.sqrt()[:, None]
        drawn = flat[:, :, None] * noise
        drawn = torch.baddbmm(drawn, (noise @ V.mT) * (variances.sqrt() - flat)[:, None, :], V)
        # as the axes have it; labels change y, and what goes along with it
        before = drawn @ self.basis.T
        factor = torch.linalg.cholesky_ex(self._covariance_before()).L
        after = torch.linalg.solve_triangular(factor, before.mT, upper=False).mT @ self.root.mT
        return drawn + self.given(after - before)

    def log_determinant(self) -> torch.Tensor:
        """Return the sum of the log determinants of the covariances."""
        size, rank = self.basis.shape[1], self.axes.directions.shape[1]
        before = torch.linalg.slogdet(self._covariance_before()).logabsdet.sum()
        after = 2 * torch.linalg.slogdet(self.root).logabsdet.sum()
        flat = (size - rank) * self.axes.spread.log().sum()
        return flat + self.axes.variances.log().sum() + after - before

    def _covariance_before(self) -> torch.Tensor:
        """Return the covariances (C, b, b) of y as the axes have it."""
        inner = self.axes.directions @ self.basis.T
        covariance = inner.mT @ self.axes.excess @ inner
        covariance.diagonal(dim1=1, dim2=2).add_(self.axes.spread[:, None])
        return covariance

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return y^T of rows (., D), and what of them is orthogonal to the basis."""
        inside = rows @ self.basis.T
        return inside, rows - inside @ self.basis

    def opened(self, rows: torch.Tensor) -> "Whitened":
        """Return the same Gaussians, with rows (n, D) in the span of the basis."""
        if self.is_whole:
            return self
        outside = self._split(rows)[1]
        added = torch.linalg.qr(outside.T, mode="r").R.diagonal()  # by each row to those before
        # rows that depend on others add nothing but rounding: 0 stands for such a direction
        rounding = 100 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows, dim=1)
        is_new = added.abs() > rounding
        order = is_new.logical_not().to(torch.int8).argsort(stable=True)  # what is 0 comes last
        new, sign = _orthonormal((is_new[:, None] * outside)[order])
        new, again = _orthonormal(self._split(new)[1])
        new = (is_new[order] * sign * again)[:, None] * new
        return self._with_basis(new[order.argsort()])

    def _with_basis(self, new: torch.Tensor) -> "Whitened":
        inner = self.axes.directions @ new.T  # (C, r, b'), of y' = new t
        known = self.gain.mT @ inner  # (C, b, b'): the mean of y' is known^T y
        coupled = self.rest @ inner
        covariance = inner.mT @ coupled  # of y' given y
        covariance.diagonal(dim1=1, dim2=2).add_(self.axes.spread[:, None])
        factor = torch.linalg.cholesky_ex(covariance).L
        gain = torch.cholesky_solve(coupled.mT, factor).mT  # (C, r, b'), of y'
        above = self.root.new_zeros(*known.shape)
        below = torch.cat([known.mT @ self.root, factor], 2)
        return self._replace(
            basis=torch.cat([self.basis, new]),
            root=torch.cat([torch.cat([self.root, above], 2), below], 1),
            gain=torch.cat([self.gain - gain @ known.mT, gain], 2),
            rest=self.rest - gain @ coupled.mT,
            shift=torch.cat([self.shift, (self.shift[:, None] @ known)[:, 0]], 1),
        )

    def cut(self) -> tuple[torch.Tensor, "Whitened"]:
        """Return the Gaussians around 0 in coordinates in which labels leave the mean precision.

        The new whitened weights are T^-1 y in the span of the basis, and t as it is outside of it.
        T (b, b) comes first, with T T^T the inverse of the mean precision of y. All that labels
        have told is then in T and in new axes, which are cut to their rank.
        """
        n_classes, rank, size = self.axes.directions.shape
        inverse = torch.linalg.inv(self.root)
        told = inverse.mT @ inverse  # precisions of y, (C, b, b)
        factor = torch.linalg.cholesky_ex(told.mean(dim=0)).L
        common = torch.linalg.solve_triangular(factor, identity(factor), upper=False).T
        if n_classes == 1:
            return common, Whitened.of_axes(self.axes)
        outside, inner, own = self._axes_outside()
        known = self.gain.mT @ inner  # (C, b, r): the mean of t outside is known^T y
        covariance = inner.mT @ self.rest @ inner
        covariance.diagonal(dim1=1, dim2=2).add_(self.axes.spread[:, None])
        precision = torch.linalg.inv(covariance)
        coupled = common.T @ known @ precision
        told = common.T @ told @ common + coupled @ (known.mT @ common)
        joint = torch.cat(  # the precisions in the span of basis and axes
            [torch.cat([told, -coupled], 2), torch.cat([-coupled.mT, precision], 2)], 1
        )
        flat = 1 / self.axes.spread
        trace = joint.diagonal(dim1=1, dim2=2).sum(dim=1)
        axes = principal_axes(
            lambda rows, some: rows @ joint[some],
            trace + (size - joint.shape[1]) * flat,
            self._start_of_cut(own, inner),
            flat=flat,
            n_dimensions=size,
            at_once=n_classes,
            n_steps=1,  # from where the axes were
        )
        inside, beside = axes.directions.split([len(self.basis), rank], dim=2)
        axes = axes._replace(directions=inside @ self.basis + beside @ outside)
        return common, Whitened.of_axes(axes)

    def _axes_outside(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return orthonormal rows U (C, r, D) that span the axes outside of the basis.

        With them come V U^T (C, r, r) and V Q^T (C, r, b). Rows are 0 where nothing is left.
        """
        own, left = self._split(self.axes.directions)
        squares, mixing = torch.linalg.eigh(left @ left.mT)
        is_left = squares > _LEFT
        length = torch.where(is_left, squares, 1.0).sqrt()
        outside = (is_left / length)[:, :, None] * (mixing.mT @ left)
        return outside, mixing * (is_left * length)[:, None, :], own

    def _start_of_cut(self, own: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """Return rows (C, q, b + r) from which new axes are looked for: the old ones, and noise."""
        noise = sketch(len(self.basis), own, _N_NEW)
        noise = torch.cat([noise, noise.new_zeros(len(noise), own.shape[1])], 1)
        start = torch.cat([torch.cat([own, inner], 2), noise.expand(len(own), -1, -1)], 1)
        if start.shape[1] < start.shape[2]:
            return start
        return identity(start[0].T).expand(len(own), -1, -1)


def identity(like: torch.Tensor) -> torch.Tensor:
    """Return an identity matrix of as many rows as another one, of its dtype and device."""
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def _of_each(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Multiply the same rows (n, N) by matrices (C, N, m), in one product."""
    n_matrices, _, width = matrices.shape
    product = rows @ matrices.transpose(0, 1).flatten(start_dim=1)
    return product.view(len(rows), n_matrices, width).transpose(0, 1)


def _orthonormal(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return orthonormal rows (n, D) that span others, and the sign (n,) of each beside its own."""
    upper = torch.linalg.qr(rows.T)
    return upper.Q.T, upper.R.diagonal().sign()
