"""Likelihoods of a class label given its logits.

Equations are cited by their labels in the theory page of the documentation, such as eq-mode.

What concerns many instances takes tensors. What concerns one instance takes NumPy vectors: its C
numbers are too few to be worth a tensor, wherever the features live.

===========  =========  ==================================================
symbol       shape      meaning
===========  =========  ==================================================
z            (n, C)     logits; C = 1 (Bernoulli) or the number of classes
y            (n, C)     targets: the label as 0 or 1 in each output, or probabilities
p            (n, C)     mean of the targets, sigmoid(z) or softmax(z), see :class:`Mean`
s            (n,)       weight of an instance
v            (n, 1|C)   variance of the logits
===========  =========  ==================================================
"""

import math
from typing import Generic, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.special import expit
from torch.nn import functional

from laplace_al._common.typing import Numbers, Vector


class Mean(NamedTuple, Generic[Numbers]):
    """p = E[y | z] and 1 - p, tensors (n, C) or a vector (C,) each.

    Both have all their digits: where p is next to 1, it has none of 1 - p.
    """

    p: Numbers
    complement: Numbers


class Bernoulli:
    """Two classes, one logit: p = sigmoid(z)."""

    n_outputs = 1

    def encode(self, indices: torch.Tensor) -> torch.Tensor:
        """Turn class indices (n,) in {0, 1} into targets (n, 1)."""
        return indices[:, None]

    def labels(self, targets: torch.Tensor) -> torch.Tensor:
        """Turn targets (n, 1) into the indices of the most probable classes (n,)."""
        return (targets[:, 0] > 0.5).long()

    def soft(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Turn probabilities of the classes (n, 2) into targets (n, 1)."""
        return probabilities[:, 1:]

    def shares(self, targets: torch.Tensor) -> torch.Tensor:
        """Turn targets (n, 1) into probabilities of the classes (n, 2)."""
        return torch.cat([1 - targets, targets], dim=1)

    def mean(self, logits: torch.Tensor) -> Mean[torch.Tensor]:
        """Return E[y | z], (n, 1)."""
        return Mean(torch.sigmoid(logits), torch.sigmoid(-logits))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return p(class | z), (n, 2)."""
        return torch.sigmoid(torch.cat([-logits, logits], dim=1))

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return log p(class | z), (n, 2), exact far into the tails."""
        return functional.logsigmoid(torch.cat([-logits, logits], dim=1))

    def negative_log_likelihood(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return -log p(y | z), (n,); its mean where the label is uncertain."""
        loss = targets * functional.softplus(-logits) + (1 - targets) * functional.softplus(logits)
        return loss[:, 0]

    def residual(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return y - p, (n, 1), exact where p is next to a y of 0 or 1."""
        return targets * torch.sigmoid(-logits) - (1 - targets) * torch.sigmoid(logits)

    def loss_and_derivatives(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Mean[torch.Tensor]]:
        """Return -log p(y | z) (n,), y - p (n, 1) and p (n, 1), at the cost of one of them."""
        mean = self.mean(logits)
        residual = torch.lerp(-mean.p, mean.complement, targets)
        return self.negative_log_likelihood(logits, targets), residual, mean

    def loss_and_derivatives_of_one(
        self, logits: Vector, target: Vector
    ) -> tuple[float, Vector, Mean[Vector]]:
        """Return -log p(y | z), y - p (1,) and p (1,) of one instance."""
        mean = Mean(expit(logits), expit(-logits))
        if 0.0 < target[0] < 1.0:
            residual = target * mean.complement - (1.0 - target) * mean.p
            loss = target * np.logaddexp(0.0, -logits) + (1.0 - target) * np.logaddexp(0.0, logits)
            return loss[0], residual, mean
        residual = mean.complement if target[0] else -mean.p
        return np.logaddexp(0.0, (1.0 - 2.0 * target) * logits)[0], residual, mean

    def hessian_product(self, mean: Mean[torch.Tensor], direction: torch.Tensor) -> torch.Tensor:
        """Multiply the second derivative of -log p(y | z) by a direction: p (1 - p) d, (n, 1)."""
        return mean.p * mean.complement * direction

    def hessian_of_one(self, mean: Mean[Vector]) -> Vector:
        """Return p (1 - p) of one instance, (1, 1)."""
        return (mean.p * mean.complement)[:, None]

    def solve_damped_hessian(self, mean: Mean[Numbers], scale: Numbers, right: Numbers) -> Numbers:
        """Return x (1,) in (I + diag(scale) p (1 - p)) x = right."""
        return right / (1.0 + scale * mean.p * mean.complement)

    solve_damped_hessians = solve_damped_hessian  # of tensors (n, 1), too


class Categorical:
    """C classes, C logits: p = softmax(z)."""

    def __init__(self, n_classes: int) -> None:
        self.n_outputs = n_classes

    def encode(self, indices: torch.Tensor) -> torch.Tensor:
        """Turn class indices (n,) into targets (n, C), one-hot."""
        return functional.one_hot(indices.long(), self.n_outputs).to(indices.dtype)

    def labels(self, targets: torch.Tensor) -> torch.Tensor:
        """Turn targets (n, C) into the indices of the most probable classes (n,)."""
        return targets.argmax(dim=1)

    def soft(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Turn probabilities of the classes (n, C) into targets: themselves."""
        return probabilities

    def shares(self, targets: torch.Tensor) -> torch.Tensor:
        """Turn targets (n, C) into probabilities of the classes: themselves."""
        return targets

    def mean(self, logits: torch.Tensor) -> Mean[torch.Tensor]:
        """Return E[y | z], (n, C)."""
        p = softmax(logits)
        return Mean(p, sum_of_others(p))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return p(class | z), (n, C)."""
        return softmax(logits)  # eq-likelihood

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return log p(class | z), (n, C), exact far into the tails."""
        return torch.log_softmax(logits, dim=1)

    def negative_log_likelihood(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return -log p(y | z), (n,); its mean where the label is uncertain."""
        return torch.logsumexp(logits, dim=1) - (targets * logits).sum(dim=1)

    def residual(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return y - p, (n, C), exact where p is next to y: 1 - p_y is the sum of the others."""
        p = softmax(logits)
        return torch.lerp(-p, sum_of_others(p), targets)

    def loss_and_derivatives(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Mean[torch.Tensor]]:
        """Return -log p(y | z) (n,), y - p (n, C) and p (n, C), at the cost of one of them."""
        log_probabilities = torch.log_softmax(logits, dim=1)
        p = log_probabilities.exp()
        mean = Mean(p, sum_of_others(p))
        residual = torch.lerp(-p, mean.complement, targets)
        return -(targets * log_probabilities).sum(dim=1), residual, mean

    def loss_and_derivatives_of_one(
        self, logits: Vector, target: Vector
    ) -> tuple[float, Vector, Mean[Vector]]:
        """Return -log p(y | z), y - p (C,) and p (C,) of one instance."""
        label, top = target.argmax(), logits.argmax()
        p = np.exp(logits - logits[top])
        p[top] = 0.0
        others = p.sum()  # only the largest can be more than half of the sum, and cancel
        p[top] = 1.0
        p /= 1.0 + others
        complement = 1.0 - p
        complement[top] = others / (1.0 + others)
        if target[label] < 1.0:
            residual = target * complement - (1.0 - target) * p
            loss = math.log1p(others) + target @ (logits[top] - logits)
            return loss, residual, Mean(p, complement)
        residual = -p
        residual[label] = complement[label]
        loss = math.log1p(others) + (logits[top] - logits[label])
        return loss, residual, Mean(p, complement)

    def hessian_product(self, mean: Mean[torch.Tensor], direction: torch.Tensor) -> torch.Tensor:
        """Multiply the second derivative of -log p(y | z) by a direction (n, C).

        This is (diag p - p p^T) d, where (diag p - p p^T) 1 = 0: shifted by p^T d, directions do
        not cancel where p is next to 1.
        """
        centred = direction - (mean.p * direction).sum(dim=1, keepdim=True)
        return mean.p * (centred - (mean.p * centred).sum(dim=1, keepdim=True))

    def hessian_of_one(self, mean: Mean[Vector]) -> Vector:
        """Return diag p - p p^T of one instance, (C, C); p_k (1 - p_k) as a sum of products."""
        hessian = -np.outer(mean.p, mean.p)
        np.fill_diagonal(hessian, 0.0)
        np.fill_diagonal(hessian, -hessian.sum(axis=1))
        return hessian

    def solve_damped_hessian(self, mean: Mean[Vector], scale: Vector, right: Vector) -> Vector:
        """Return x (C,) in (I + diag(scale) (diag p - p p^T)) x = right.

        Sherman-Morrison on diag(1 + scale p) - (scale p) p^T. Its denominator
        1 - sum scale p^2 / (1 + scale p) is sum p / (1 + scale p): no cancellation.
        """
        scaled = scale * mean.p
        diagonal = 1.0 + scaled
        ratio = mean.p / diagonal
        return (right + scaled * (ratio.dot(right) / ratio.sum())) / diagonal

    def solve_damped_hessians(
        self, mean: Mean[torch.Tensor], scale: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """Do the same for the rows of tensors (n, C), with a scale (n, 1) or (n, C)."""
        scaled = scale * mean.p
        diagonal = 1.0 + scaled
        ratio = mean.p / diagonal
        share = (ratio * right).sum(dim=1, keepdim=True) / ratio.sum(dim=1, keepdim=True)
        return (right + scaled * share) / diagonal


Likelihood: TypeAlias = Bernoulli | Categorical


def likelihood_of(n_classes: int) -> Likelihood:
    """Return the likelihood of a label among so many classes: one logit for two, else one each."""
    return Bernoulli() if n_classes == 2 else Categorical(n_classes)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return the softmax of each row (n, C); on short rows three times as fast as torch's."""
    exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=1, keepdim=True)


def sum_of_others(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the other numbers of its row for each of some (n, C) >= 0.

    It is as exact as if they were added up: for probabilities, 1 - p where p is next to 1 as well.
    """
    # only the largest can be more than half of the sum, and cancel
    largest = values.argmax(dim=1, keepdim=True)
    others = values.scatter(1, largest, 0.0).sum(dim=1, keepdim=True)
    return (values.sum(dim=1, keepdim=True) - values).scatter_(1, largest, others)
