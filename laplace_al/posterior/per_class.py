"""A covariance for the weights of each output."""

from dataclasses import replace

import torch

from laplace_al.posterior.base import GroupedPosterior
from laplace_al.posterior.roots import prior_root, root_of_sum
from laplace_al.posterior.shared import halves, spread


class PerClassPosterior(GroupedPosterior):
    """Gaussian over W (D, C) with independent columns.

    Column k has the precision A_k = lambda I + sum h_k phi phi^T. Memory: C D^2 + D C numbers.
    The block diagonal of the full posterior.

    See Also
    --------
    laplace_al.posterior.SharedPosterior : One covariance for all columns.
    laplace_al.posterior.FullPosterior : Columns that depend on each other.

    Examples
    --------
    >>> prior = PerClassPosterior.prior(torch.zeros(2, 3), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    @staticmethod
    def shape_of_root(n_features, n_outputs):
        """One root of the size of the features for each output.

        Parameters
        ----------
        n_features, n_outputs : int

        Returns
        -------
        (int, int)

        Examples
        --------
        >>> PerClassPosterior.shape_of_root(384, 10)
        (10, 384)
        """
        return n_outputs, n_features

    @classmethod
    def at_mode(cls, mean, features, curvature, prior_precision, prior_mean=None):
        """Laplace approximation: precisions lambda I + Phi^T diag(h_k) Phi around a mode.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
            The mode.
        features : Tensor of shape (n, D)
        curvature : Tensor of shape (n, C)
            h at the mode, sample weights included, >= 0.
        prior_precision : float
            lambda > 0.
        prior_mean : Tensor of shape (D, C), default=None
            None is zero.

        Returns
        -------
        PerClassPosterior

        Examples
        --------
        >>> one = torch.ones(1, 1)
        >>> PerClassPosterior.at_mode(0 * one, 2 * one, one, 1.0).precision
        tensor([[5.]])
        """
        prior_mean = torch.zeros_like(mean) if prior_mean is None else prior_mean
        root = root_of_sum(features, curvature, prior_precision)
        return cls(mean, root, prior_precision, prior_mean)

    def variance(self, features):
        """Variance of each logit, phi^T Sigma_k phi.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> PerClassPosterior.prior(torch.ones(2, 1), 4.0).variance(torch.eye(2))
        tensor([[0.2500],
                [0.2500]])
        """
        return torch.stack([(features @ root).square().sum(dim=1) for root in self.root], dim=1)

    def with_outputs(self, positions, n_outputs):
        """The same posterior among more outputs, which start from the prior with mean 0.

        Parameters
        ----------
        positions : Tensor of shape (C,)
            Where the outputs so far go.
        n_outputs : int

        Returns
        -------
        PerClassPosterior

        Examples
        --------
        >>> posterior = PerClassPosterior.prior(torch.ones(1, 2), 1.0)
        >>> posterior.with_outputs(torch.tensor([0, 2]), 3).mean
        tensor([[1., 0., 1.]])
        """
        root = prior_root(n_outputs, len(self.mean), self.prior_precision, self.mean)
        root[positions] = self.root
        mean = spread(self.mean, positions, n_outputs)
        prior_mean = spread(self.prior_mean, positions, n_outputs)
        return replace(self, mean=mean, root=root, prior_mean=prior_mean)

    def as_two_outputs(self):
        """The softmax with two outputs that predicts what this one logit predicts.

        Returns
        -------
        PerClassPosterior

        Examples
        --------
        >>> PerClassPosterior.prior(torch.ones(1, 1), 1.0).as_two_outputs().mean
        tensor([[-0.5000,  0.5000]])
        """
        mean, prior_mean = halves(self.mean), halves(self.prior_mean)
        return replace(self, mean=mean, root=self.root.repeat(2, 1, 1), prior_mean=prior_mean)
