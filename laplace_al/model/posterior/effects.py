"""What a label does to the predictions of other instances: the update of a pool."""

from typing import NamedTuple

import torch

from laplace_al._common.devices import on_device
from laplace_al._common.typing import Vector


class Effect(NamedTuple):
    """What learning an instance does to the logits and variances of any others (eq-pool).

    With C = Phi U, Phi the features of the others: Z + C a and v - C^2 s, number by number. It
    knows nothing of Phi, and its few numbers can go wherever instances are.

    Parameters
    ----------
    directions : Tensor of shape (D, 1) or (D, C)
        U = Sigma_old phi, for all outputs or for each.
    coefficients : ndarray of shape (C,) or None
        a; None moves no logit.
    shrinkage : ndarray of shape (1,) or (C,), or None
        s = h / (1 + h v) >= 0 of the instance; None leaves the variances.

    Examples
    --------
    >>> import numpy as np
    >>> effect = Effect(torch.ones(1, 1), coefficients=np.array([3.0]), shrinkage=np.array([0.5]))
    >>> moved = torch.tensor([[1.0], [2.0]]) @ effect.directions
    >>> effect.logits_after(moved, torch.zeros(2, 1))
    tensor([[3.],
            [6.]])
    >>> effect.variance_after(moved, torch.tensor([1.0, 4.0]))
    tensor([0.5000, 2.0000])
    """

    directions: torch.Tensor
    coefficients: Vector | None
    shrinkage: Vector | None

    def logits_after(
        self, moved: torch.Tensor, logits: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits of others after it.

        Parameters
        ----------
        moved : Tensor of shape (n, 1) or (n, C)
            C = Phi U of the others.
        logits : Tensor of shape (n, C)
        out : Tensor of shape (n, C), default=None
            Where to write them; None makes a tensor.

        Returns
        -------
        Tensor of shape (n, C)
            ``logits`` itself if none moves.
        """
        if self.coefficients is None:
            return logits
        return torch.addcmul(logits, moved, on_device(self.coefficients, logits), out=out)

    def variance_after(
        self, moved: torch.Tensor, variance: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Variances of others after it.

        Parameters
        ----------
        moved : Tensor of shape (n, 1) or (n, C)
            C = Phi U of the others; used up.
        variance : Tensor of shape (n,) or (n, C)
        out : Tensor of that shape, default=None
            Where to write them; None makes a tensor.

        Returns
        -------
        Tensor of shape (n,) or (n, C)
            ``variance`` itself if none shrinks.
        """
        if self.shrinkage is None:
            return variance
        scaled = moved.mul_(on_device(self.shrinkage, moved).sqrt()).view(variance.shape)
        shrunk = torch.addcmul(variance, scaled, scaled, value=-1, out=out)
        return shrunk.clamp_min_(0)  # below which rounding may carry it
