"""The effect of a label on the predictions of other instances: the update of a pool."""

from typing import NamedTuple

import torch

from laplace_al._common.devices import on_device
from laplace_al._common.typing import Vector


class Effect(NamedTuple):
    """The effect of learning an instance on the logits and variances of any others (eq-pool).

    With C = Phi U (n, 1) or (n, C), Phi the features of the others: Z + C a and v - C^2 s, element
    by element. U = Sigma_old phi are the directions, (D, 1) for all outputs or (D, C). The
    coefficients a (C,) may be None, which moves no logit, and the shrinkage s = h / (1 + h v) >= 0
    of the instance, (1,) or (C,), may be None, which leaves the variances. An effect knows nothing
    of Phi, and its few numbers can go wherever instances are.
    """

    directions: torch.Tensor
    coefficients: Vector | None
    shrinkage: Vector | None

    def logits_after(
        self, moved: torch.Tensor, logits: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits (n, C) of others after it, given ``moved`` = C.

        They are written to ``out`` if given; it is ``logits`` itself if none moves.
        """
        if self.coefficients is None:
            return logits
        return torch.addcmul(logits, moved, on_device(self.coefficients, logits), out=out)

    def variance_after(
        self, moved: torch.Tensor, variance: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the variances (n,) or (n, C) of others after it; ``moved`` = C is used up.

        They are written to ``out`` if given; it is ``variance`` itself if none shrinks.
        """
        if self.shrinkage is None:
            return variance
        scaled = moved.mul_(on_device(self.shrinkage, moved).sqrt()).view(variance.shape)
        shrunk = torch.addcmul(variance, scaled, scaled, value=-1, out=out)
        return shrunk.clamp_min_(0)  # below which rounding may carry it
