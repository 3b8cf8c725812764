"""What the structures share: a mean and the root of a covariance, conditioned on labels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch

from laplace_al.posterior.roots import precision_of_root, prior_root, root_of_precision, shrink

# Rows learnt at once: bounds the (b, b) numbers of the recursion, whatever the input.
_BLOCK_SIZE = 64


@dataclass(frozen=True, eq=False)
class Posterior(ABC):
    """Gaussian over the weights W (D, C) of a last layer.

    W falls into G groups of m columns of N numbers that share a covariance: Sigma_g = R_g R_g^T.
    A value: every method returns a new posterior and leaves this one as it is.

    Parameters
    ----------
    mean : Tensor of shape (D, C)
        Posterior mean of W.
    root : Tensor of shape (G, N, N)
        R: the one truth about the covariance, from which precision and covariance are computed.
    prior_precision : float
        lambda of the Gaussian prior.
    prior_mean : Tensor of shape (D, C)
        Mean of the Gaussian prior.
    """

    mean: torch.Tensor
    root: torch.Tensor
    prior_precision: float
    prior_mean: torch.Tensor

    def __deepcopy__(self, memo):
        return self  # a value

    @staticmethod
    @abstractmethod
    def shape_of_root(n_features, n_outputs):
        """(G, N) for W of shape (n_features, n_outputs): G N^2 numbers are held."""

    @classmethod
    def prior(cls, mean, prior_precision):
        """Gaussian prior around a mean: covariance I / lambda.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        prior_precision : float
            lambda > 0.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(1, 1), 2.0).covariance
        tensor([[0.5000]])
        """
        root = prior_root(*cls.shape_of_root(*mean.shape), prior_precision, mean)
        return cls(mean, root, prior_precision, mean)

    @classmethod
    @abstractmethod
    def at_mode(cls, mean, features, curvature, prior_precision, prior_mean=None):
        """Laplace approximation around a mode: precision lambda I + sum h phi phi^T."""

    @property
    def precision(self):
        """A_g = Sigma_g^-1, (G, N, N); (N, N) where there is one for all."""
        return self._squeezed(precision_of_root(self.root))

    @property
    def covariance(self):
        """Sigma_g = R_g R_g^T, (G, N, N); (N, N) where there is one for all."""
        return self._squeezed(self.root @ self.root.mT)

    def logits(self, features):
        """Mean of the logits, Phi W.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> from laplace_al.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.ones(2, 1), 1.0).logits(torch.ones(1, 2))
        tensor([[2.]])
        """
        return features @ self.mean

    @abstractmethod
    def variance(self, features):
        """Variance of the logits, diagonal of Phi Sigma Phi^T: (n,) or (n, C)."""

    @abstractmethod
    def condition(self, features, targets, weights, update):
        """Posterior after labelled instances, each learnt after the one before it.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        targets : Tensor of shape (n, C)
        weights : Tensor of shape (n,)
            s >= 0; an instance of weight 0 changes nothing.
        update : callable
            A rule of :mod:`laplace_al.updates`.

        Returns
        -------
        Posterior
        """

    def sample(self, n_samples, generator):
        """Weights drawn from the posterior, W + R noise.

        Parameters
        ----------
        n_samples : int
        generator : torch.Generator
            On the CPU, so that a seed gives the same weights on every device.

        Returns
        -------
        Tensor of shape (n_samples, D, C)

        Examples
        --------
        >>> from laplace_al.posterior import SharedPosterior
        >>> posterior = SharedPosterior.prior(torch.zeros(3, 2), 1.0)
        >>> posterior.sample(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3, 2])
        """
        n_groups, size = self.root.shape[:2]
        shape = (n_groups, size, n_samples * self.mean.numel() // (n_groups * size))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.mean)
        draws = (self.root @ noise).reshape(n_groups, size, n_samples, -1).permute(2, 0, 1, 3)
        return self.mean + torch.stack([self._ungrouped(draw) for draw in draws])

    def log_determinant(self):
        """Logarithm of the determinant of the precision of all weights together.

        Returns
        -------
        Tensor of shape ()

        Examples
        --------
        >>> from laplace_al.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(1, 3), 4.0).log_determinant()  # 3 log 4
        tensor(4.1589)
        """
        n_columns = self.mean.numel() // (self.root.shape[0] * self.root.shape[1])
        return -2 * n_columns * torch.linalg.slogdet(self.root).logabsdet.sum()

    def merge(self, other):
        """Posterior of the data of both, learnt apart from the same prior.

        Precisions and their products with the means add up; the prior counts once.

        Parameters
        ----------
        other : Posterior
            Of the same structure, shape and prior.

        Returns
        -------
        Posterior

        Raises
        ------
        ValueError
            If structures, shapes or priors differ.

        Examples
        --------
        >>> from laplace_al.posterior import SharedPosterior
        >>> one = torch.ones(1, 1)
        >>> a = SharedPosterior.at_mode(one, one, 1 * one, prior_precision=1.0)
        >>> b = SharedPosterior.at_mode(0 * one, one, 2 * one, prior_precision=1.0)
        >>> a.merge(b).precision, a.merge(b).mean  # 2 + 3 - 1, and (2 * 1 + 3 * 0) / 4
        (tensor([[4.]]), tensor([[0.5000]]))
        """
        same_kind = type(self) is type(other) and self.mean.shape == other.mean.shape
        if not (
            same_kind
            and self.prior_precision == other.prior_precision
            and torch.equal(self.prior_mean, other.prior_mean)
        ):
            raise ValueError(
                "merge needs two posteriors of one structure, shape and prior; got "
                f"{self!r} and {other!r}. Learn both with the same classes, features, covariance "
                "and prior_precision."
            )
        return self._with_data(*(a + b for a, b in zip(self._data(), other._data(), strict=True)))

    def forget(self, share):
        """Posterior to which all data so far counts only a share; the prior counts in full.

        Parameters
        ----------
        share : float
            In [0, 1]; 1 forgets nothing, 0 everything.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.posterior import SharedPosterior
        >>> one = torch.ones(1, 1)
        >>> SharedPosterior.at_mode(one, one, 8 * one, prior_precision=1.0).forget(0.5).precision
        tensor([[5.]])
        """
        return self._with_data(*(share * part for part in self._data()))

    def _data(self):
        """What the data added: to the precision (G, N, N) and to its product with the mean."""
        precision = precision_of_root(self.root)
        mean, prior_mean = self._grouped(self.mean), self._grouped(self.prior_mean)
        information = precision @ mean - self.prior_precision * prior_mean
        precision.diagonal(dim1=-2, dim2=-1).sub_(self.prior_precision)
        return precision, information

    def _with_data(self, precision, information):
        """The prior and such data."""
        precision = precision.clone()
        precision.diagonal(dim1=-2, dim2=-1).add_(self.prior_precision)
        root = root_of_precision(precision)
        information = information + self.prior_precision * self._grouped(self.prior_mean)
        mean = self._ungrouped(root @ (root.mT @ information))
        return replace(self, mean=mean, root=root)

    def _grouped(self, matrix):
        """(D, C) as (G, N, m)."""
        n_groups, size = self.root.shape[:2]
        return (
            matrix.T.reshape(n_groups, -1, size).mT
            if size == len(matrix)
            else (matrix.reshape(1, -1, 1))
        )

    def _ungrouped(self, groups):
        """(G, N, m) as (D, C)."""
        if groups.shape[1] == len(self.mean):
            return groups.mT.reshape(-1, len(self.mean)).T
        return groups.reshape(self.mean.shape)

    def _squeezed(self, matrices):
        return matrices[0] if len(matrices) == 1 else matrices

    def __repr__(self):
        return (
            f"{type(self).__name__}(n_features={self.mean.shape[0]}, "
            f"n_outputs={self.mean.shape[1]}, prior_precision={self.prior_precision:g})"
        )


class GroupedPosterior(Posterior):
    """Structures whose groups learn independently, given the weights of the instances.

    The recursion over a block of b rows. Let f_i = R^T phi_i be the whitened rows, F^T = Q L^T
    with orthonormal Q (D, k) and l_i the rows of L (b, k). Every direction that the block can
    change lies in the span of Q, where R is R Q T with a T (k, k) that starts as the identity:

        w_i = T^T l_i,  v_i = w_i^T w_i,  z_i = phi_i^T W + l_i^T c
        c  <- c + T w_i a_i^T,  T <- T (I - beta_i w_i w_i^T)

    and at the end W + R Q c and R - R Q (I - T) Q^T. All that has the size D is a matrix product.
    """

    def condition(self, features, targets, weights, update):
        """See :meth:`Posterior.condition`: equal to learning the rows one at a time."""
        posterior = self
        for start in range(0, len(features), _BLOCK_SIZE):
            rows = slice(start, start + _BLOCK_SIZE)
            block = (features[rows], targets[rows], weights[rows])
            learn = posterior._learn_one if len(block[0]) == 1 else posterior._learn_block
            posterior = learn(*block, update)
        return posterior

    def _learn_one(self, features, targets, weights, update):
        whitened = features @ self.root  # (G, 1, D)
        variance = (whitened * whitened).sum(dim=(1, 2))  # (G,)
        a, h = _on_host(update, features @ self.mean, variance, targets, weights)
        direction = self.root @ whitened.mT  # (G, D, 1), Sigma phi
        mean = self.mean + self._ungrouped(direction * _like(a, features, len(variance)))
        direction = direction * shrink(variance, _like(h, features))[:, None, None]
        if len(self.root) == 1:  # twice as fast as the product of a column and a row
            root = torch.addr(self.root[0], direction[0, :, 0], whitened[0, 0], alpha=-1)[None]
        else:
            root = torch.baddbmm(self.root, direction, whitened, alpha=-1)
        return replace(self, mean=mean, root=root)

    def _learn_block(self, features, targets, weights, update):
        basis, coordinates = torch.linalg.qr((features @ self.root).mT)  # (G, D, k), (G, k, b)
        factor, shift = _recursion(
            *map(_host, (coordinates, features @ self.mean, targets, weights)), update
        )
        removed = _like(np.eye(factor.shape[1]) - factor, features)  # (G, k, k), I - T
        span = self.root @ basis  # (G, D, k), R Q
        mean = self.mean + self._ungrouped(span @ _like(shift, features))
        root = torch.baddbmm(self.root, span @ removed, basis.mT, alpha=-1)
        return replace(self, mean=mean, root=root)


def _recursion(coordinates, logits, targets, weights, update):
    """T (G, k, k) and c (G, k, m) after the rows of a block, on the host.

    Takes l_i as the columns of coordinates (G, k, b), logits (b, C), targets (b, C), weights (b,).
    """
    n_groups, size, _ = coordinates.shape
    rows = np.ascontiguousarray(np.moveaxis(coordinates, 2, 0))[:, :, None, :]  # (b, G, 1, k)
    factor = np.tile(np.eye(size), (n_groups, 1, 1))
    shift = np.zeros((n_groups, size, logits.shape[1] // n_groups))
    for row, z, y, s in zip(rows, logits, targets, weights, strict=True):
        whitened = row @ factor  # (G, 1, k), w_i
        variance = np.einsum("gok,gok->g", whitened, whitened)
        a, h = update(z + (row @ shift).ravel(), variance, y, s)
        direction = factor @ whitened.transpose(0, 2, 1)  # (G, k, 1), T w_i
        shift += direction * a.reshape(n_groups, 1, -1)
        scale = np.sqrt(1.0 + h * variance)
        direction *= (h / (scale * (1.0 + scale)))[:, None, None]
        factor -= direction * whitened
    return factor, shift


def _on_host(update, logits, variance, targets, weights):
    """The update of one instance, given as tensors of one row."""
    logits, variance, target, weight = map(_host, (logits[0], variance, targets[0], weights))
    return update(logits, variance, target, weight[0])


def _host(tensor):
    return tensor.double().numpy(force=True)


def _like(array, tensor, n_groups=None):
    """An array as a tensor of the kind of another; (C,) as (G, 1, m) if so asked."""
    array = torch.from_numpy(array).to(tensor)
    return array if n_groups is None else array.reshape(n_groups, 1, -1)
