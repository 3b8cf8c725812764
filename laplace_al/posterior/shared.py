"""One covariance for the weights of every output."""

from dataclasses import dataclass

import torch

from laplace_al.posterior.factor import cholesky_factor

# Rows conditioned on at once: bounds the (b, b) numbers of the recursion, whatever the input.
_BLOCK_SIZE = 128


@dataclass(frozen=True, eq=False)
class SharedPosterior:
    """Gaussian over W (D, C) whose columns share the precision A = lambda I + sum h phi phi^T.

    A value: every method returns a new posterior and leaves this one as it is. Memory is
    2 D^2 + D C numbers.

    Parameters
    ----------
    mean : Tensor of shape (D, C)
        Posterior mean of W.
    precision : Tensor of shape (D, D)
        A, summed without cancellation: the truth that the covariance is refreshed from.
    covariance : Tensor of shape (D, D)
        The inverse of the precision.
    n_since_refresh : int
        Instances subtracted from the covariance since it came from a factor of the precision.

    Notes
    -----
    The structure of Huseljic et al., arXiv 2210.06112.

    Examples
    --------
    >>> import torch
    >>> prior = SharedPosterior.prior(torch.zeros(2, 1), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([0.5000])
    """

    mean: torch.Tensor
    precision: torch.Tensor
    covariance: torch.Tensor
    n_since_refresh: int = 0

    def __deepcopy__(self, memo):
        return self  # a value

    @classmethod
    def prior(cls, mean, prior_precision):
        """Gaussian with a multiple of the identity as precision.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        prior_precision : float
            lambda > 0.

        Returns
        -------
        SharedPosterior

        Examples
        --------
        >>> import torch
        >>> SharedPosterior.prior(torch.zeros(1, 1), 2.0).covariance
        tensor([[0.5000]])
        """
        identity = torch.eye(mean.shape[0], dtype=mean.dtype, device=mean.device)
        return cls(mean, prior_precision * identity, identity / prior_precision)

    @classmethod
    def at_mode(cls, mean, features, curvature, prior_precision):
        """Laplace approximation: precision lambda I + Phi^T diag(h) Phi around a mode.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
            The mode.
        features : Tensor of shape (n, D)
        curvature : Tensor of shape (n,)
            h at the mode, sample weights included, >= 0.
        prior_precision : float
            lambda > 0.

        Returns
        -------
        SharedPosterior

        Raises
        ------
        ValueError
            If the precision cannot be inverted in its dtype.

        Examples
        --------
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> SharedPosterior.at_mode(0 * one, 2 * one, one[0], 1.0).precision
        tensor([[5.]])
        """
        precision = features.T @ (curvature[:, None] * features)
        precision.diagonal().add_(prior_precision)
        return cls._from_precision(mean, precision)

    @classmethod
    def _from_precision(cls, mean, precision):
        return cls(mean, precision, torch.cholesky_inverse(cholesky_factor(precision)))

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
        >>> import torch
        >>> SharedPosterior.prior(torch.ones(2, 1), 1.0).logits(torch.ones(1, 2))
        tensor([[2.]])
        """
        return features @ self.mean

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
        return ((features @ self.covariance) * features).sum(dim=1).clamp_min(0)

    def sample(self, n_samples, generator):
        """Weights drawn from the posterior.

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
        >>> import torch
        >>> posterior = SharedPosterior.prior(torch.zeros(3, 2), 1.0)
        >>> posterior.sample(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3, 2])
        """
        shape = (n_samples, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.mean)
        # A = L L^T, so L^-T noise has covariance A^-1; all draws are columns of one solve
        columns = noise.permute(1, 0, 2).reshape(len(self.mean), -1)
        factor = cholesky_factor(self.precision)
        scaled = torch.linalg.solve_triangular(factor.T, columns, upper=True)
        return self.mean + scaled.reshape(len(self.mean), n_samples, -1).permute(1, 0, 2)

    def condition(self, features, targets, weights, update):
        """Posterior after labelled instances, each learnt after the one before it.

        Equal to conditioning on the instances one at a time, in blocks of matrix products.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        targets : Tensor of shape (n, C)
        weights : Tensor of shape (n,)
            >= 0; an instance of weight 0 changes nothing.
        update : callable
            The rule of :mod:`laplace_al.updates`.

        Returns
        -------
        SharedPosterior

        Examples
        --------
        >>> import torch
        >>> from laplace_al.likelihoods import Bernoulli, gaussian_curvature
        >>> from laplace_al.updates import NewtonUpdate
        >>> one = torch.ones(1, 1)
        >>> posterior = SharedPosterior.prior(0 * one, 1.0).condition(
        ...     one, one, one[0], NewtonUpdate(Bernoulli(), gaussian_curvature))
        >>> posterior.mean, posterior.covariance
        (tensor([[0.2500]]), tensor([[0.5000]]))
        """
        posterior = self
        for rows in torch.arange(len(features), device=features.device).split(_BLOCK_SIZE):
            posterior = posterior._condition_block(
                features[rows], targets[rows], weights[rows], update
            )
        return posterior

    def _condition_block(self, features, targets, weights, update):
        """The left-looking recursion over a block of b rows.

        Instance i has the direction u_i = Sigma_i phi_i, where Sigma_i has seen the instances
        before i. All that the loop needs of it are the numbers K_ij = phi_i^T u_j (j <= i):

            K_ij = G_ij - sum_{m<j} g_m K_im K_jm,   G = Phi Sigma Phi^T,  g_m = h_m / (1 + h_m v_m)
            z_i  = phi_i^T W + sum_{j<i} K_ij a_j,   v_i = K_ii

        and Sigma phi_j = u_j + sum_{m<j} g_m K_jm u_m gives all u at once, by one solve.
        """
        n = len(features)
        projected = features @ self.covariance  # (b, D), rows Sigma phi_i
        gram = projected @ features.T  # (b, b), G
        logits = features @ self.mean  # (b, C)
        kernel = torch.zeros_like(gram)  # (b, b), K, lower triangle
        coefficients = torch.zeros_like(logits)  # (b, C), a
        curvature, gain = torch.zeros_like(weights), torch.zeros_like(weights)  # (b,), h and g
        for i in range(n):
            known = gain[:i] * kernel[i, :i]
            kernel[i:, i] = gram[i:, i] - kernel[i:, :i] @ known
            variance = kernel[i, i].clamp_min(0).reshape(1)
            row = slice(i, i + 1)
            coefficients[row], curvature[row] = update(
                logits[row] + kernel[row, :i] @ coefficients[:i],
                variance,
                targets[row],
                weights[row],
            )
            gain[row] = curvature[row] / (1 + curvature[row] * variance)
        directions = torch.linalg.solve_triangular(  # (D, b), columns u_i
            gain[:, None] * kernel.T, projected.T, upper=True, left=False, unitriangular=True
        )
        return self._absorb(features, curvature, directions, gain, directions @ coefficients)

    def _absorb(self, features, curvature, directions, gain, shift):
        """The one place that adds to the precision and takes from the covariance."""
        mean = self.mean + shift
        precision = torch.addmm(self.precision, features.T, curvature[:, None] * features)
        n_since_refresh = self.n_since_refresh + len(features)
        if n_since_refresh >= max(_BLOCK_SIZE, len(mean)):
            # D^3 / 3 every D instances: no more than the updates cost, and drift is forgotten
            return self._from_precision(mean, precision)
        root = directions * gain.sqrt()
        covariance = torch.addmm(self.covariance, root, root.T, alpha=-1)
        return SharedPosterior(mean, precision, covariance, n_since_refresh)
