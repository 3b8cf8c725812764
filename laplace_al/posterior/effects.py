"""What a label does to the predictions of other instances: the update of a pool."""

from typing import NamedTuple

import torch

from laplace_al.devices import on_device
from laplace_al.typing import Vector


class Effect(NamedTuple):
    """What learning an instance does to the logits and variances of any others (eq-pool).

    With C = Phi U, Phi the features of the others: Z + C a and v - C^2 s, number by number. It
    knows nothing of Phi, and its few numbers can go wherever instances are.

    Parameters
    ----------
    directions : Tensor of shape (D, 1) or (D, C)
        U = Sigma_old phi, for all outputs or for each.
    coefficients : ndarray or Tensor of shape (C,), or None
        a, on the CPU; None moves no logit.
    shrinkage : ndarray or Tensor of shape (1,) or (C,), or None
        s = h / (1 + h v) of the instance, on the CPU; None leaves the variances.

    Examples
    --------
    >>> import numpy as np
    >>> effect = Effect(torch.ones(1, 1), coefficients=np.array([3.0]), shrinkage=np.array([0.5]))
    >>> logits, variance = torch.zeros(2, 1), torch.tensor([1.0, 4.0])
    >>> effect.apply(torch.tensor([[1.0], [2.0]]) @ effect.directions, logits, variance)
    >>> logits.T, variance
    (tensor([[3., 6.]]), tensor([0.5000, 2.0000]))
    """

    directions: torch.Tensor
    coefficients: Vector | torch.Tensor | None
    shrinkage: Vector | torch.Tensor | None

    def apply(self, moved: torch.Tensor, logits: torch.Tensor, variance: torch.Tensor) -> None:
        """Move logits and variances, in place.

        Parameters
        ----------
        moved : Tensor of shape (n, 1) or (n, C)
            C = Phi U of the others; used up.
        logits : Tensor of shape (n, C)
            Of the others; changed.
        variance : Tensor of shape (n,) or (n, C)
            Of the others; changed.
        """
        if self.coefficients is not None:
            logits.addcmul_(moved, on_device(self.coefficients, logits))
        self.shrink(moved, variance)

    def shrink(self, moved: torch.Tensor, variance: torch.Tensor) -> None:
        """Move variances alone, in place; parameters as those of :meth:`apply`."""
        if self.shrinkage is not None:
            scaled = moved.mul_(on_device(self.shrinkage, moved).sqrt())
            shrunk = variance.view(len(moved), -1).addcmul_(scaled, scaled, value=-1)
            shrunk.clamp_min_(0)  # below which rounding may carry it
