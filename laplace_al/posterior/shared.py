"""One covariance for the weights of every output."""

from dataclasses import replace

import torch

from laplace_al.posterior.base import GroupedPosterior


class SharedPosterior(GroupedPosterior):
    """Gaussian over W (D, C) whose columns share the precision A = lambda I + sum h phi phi^T.

    Memory: D^2 + D C numbers. The structure of Huseljic et al., arXiv 2210.06112.

    See Also
    --------
    laplace_al.posterior.PerClassPosterior : A covariance for each column.

    Examples
    --------
    >>> import torch
    >>> prior = SharedPosterior.prior(torch.zeros(2, 1), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([0.5000])
    >>> one = torch.ones(1, 1)
    >>> SharedPosterior.at_mode(0 * one, 2 * one, one, prior_precision=1.0).precision
    tensor([[5.]])
    """

    @staticmethod
    def shape_of_root(n_features, n_outputs):
        """One root of the size of the features.

        Parameters
        ----------
        n_features, n_outputs : int

        Returns
        -------
        (int, int)

        Examples
        --------
        >>> SharedPosterior.shape_of_root(384, 10)
        (1, 384)
        """
        return 1, n_features

    def variance(self, features):
        """Variance of every logit of a row, phi^T Sigma phi.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n,)

        Examples
        --------
        >>> import torch
        >>> SharedPosterior.prior(torch.ones(2, 1), 4.0).variance(torch.eye(2))
        tensor([0.2500, 0.2500])
        """
        return (features @ self.base[0]).square().sum(dim=1)

    def _absorb(self, basis, removed, shift):
        basis, removed = basis[0], removed[0]
        span = self.base[0] @ basis  # (D, k), R Q
        shrunk = span @ removed
        if shrunk.shape[1] == 1:  # twice as fast as the product of a column and a row
            root = torch.addr(self.base[0], shrunk[:, 0], basis[:, 0], alpha=-1)
        else:
            root = torch.addmm(self.base[0], shrunk, basis.T, alpha=-1)
        return self._moved(torch.addmm(self.base_mean, span, shift[0]), root[None])

    def with_outputs(self, positions, n_outputs):
        """The same posterior among more outputs.

        New outputs have the mean 0 and, as all share it, the covariance of the others.

        Parameters
        ----------
        positions : Tensor of shape (C,)
            Where the outputs so far go.
        n_outputs : int

        Returns
        -------
        SharedPosterior

        Examples
        --------
        >>> import torch
        >>> posterior = SharedPosterior.prior(torch.ones(1, 2), 1.0)
        >>> posterior.with_outputs(torch.tensor([0, 2]), 3).mean
        tensor([[1., 0., 1.]])
        """
        mean = spread(self.mean, positions, n_outputs)
        prior_mean = spread(self.prior_mean, positions, n_outputs)
        return replace(self, base_mean=mean, prior_mean=prior_mean)

    def as_two_outputs(self):
        """The softmax with two outputs that predicts what this one logit predicts.

        Returns
        -------
        SharedPosterior

        Examples
        --------
        >>> import torch
        >>> SharedPosterior.prior(torch.ones(1, 1), 1.0).as_two_outputs().mean
        tensor([[-0.5000,  0.5000]])
        """
        return replace(self, base_mean=halves(self.mean), prior_mean=halves(self.prior_mean))


def spread(columns, positions, n_columns):
    """Columns (D, C) moved to positions among so many, the others zero.

    Parameters
    ----------
    columns : Tensor of shape (D, C)
    positions : Tensor of shape (C,)
    n_columns : int

    Returns
    -------
    Tensor of shape (D, n_columns)

    Examples
    --------
    >>> import torch
    >>> spread(torch.ones(1, 1), torch.tensor([1]), 3)
    tensor([[0., 1., 0.]])
    """
    wide = columns.new_zeros(len(columns), n_columns)
    wide[:, positions] = columns
    return wide


def halves(column):
    """One logit w as the two logits -w / 2 and w / 2.

    Parameters
    ----------
    column : Tensor of shape (D, 1)

    Returns
    -------
    Tensor of shape (D, 2)

    Examples
    --------
    >>> import torch
    >>> halves(torch.ones(1, 1))
    tensor([[-0.5000,  0.5000]])
    """
    return torch.cat([-column, column], dim=1) / 2
