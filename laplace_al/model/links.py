"""Links: Gaussian logits to the logits of a prediction.

m (n, C) are the mean logits, v (n,) or (n, C) their variances. A likelihood turns the result
into probabilities.
"""

import math

import torch

from laplace_al.model.likelihoods import softmax, sum_of_others


def plug_in(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return the logits of a prediction at the mean: the variance is ignored."""
    return mean


def mean_field(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return the mean-field (probit) approximation: m / sqrt(1 + pi / 8 v).

    MacKay, *The evidence framework applied to classification networks*, Neural Computation
    4(5), 1992; arXiv 2210.06112. With a variance for each logit, v is that of the class that the
    row has, on average: sum_k p_k v_k. Logits shrunk each by their own would trade places.
    """
    if variance.ndim == 1:
        variance = variance[:, None]
    elif variance.shape[1] > 1:
        variance = (softmax(mean) * variance).sum(dim=1, keepdim=True)
    return mean / torch.sqrt(1 + math.pi / 8 * variance)  # eq-mean-field


def bridge(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return log alpha of the Dirichlet that matches the Gaussian over the logits (Laplace bridge).

    alpha_k = (1 - 2 / C + e^{m_k} sum_l e^{-m_l} / C^2) / v_k, with mean and variance conditioned
    on logits that add up to 0, as softmax ignores their sum. A single logit keeps its mean.

    Hobbhahn, Kristiadi and Hennig, *Fast predictive uncertainty for classification with Bayesian
    deep networks*, UAI 2022.
    """
    n_outputs = mean.shape[1]
    if n_outputs == 1:
        return mean
    if variance.ndim == 1:
        variance = variance[:, None]
    variance = variance.clamp_min(torch.finfo(variance.dtype).tiny ** 0.5).expand_as(mean)
    total = variance.sum(dim=1, keepdim=True)
    mean = mean - variance / total * mean.sum(dim=1, keepdim=True)
    variance = variance * (sum_of_others(variance) / total)  # v - v^2 / total would cancel
    evidence = mean + torch.logsumexp(-mean, dim=1, keepdim=True) - 2 * math.log(n_outputs)
    uniform = torch.log(torch.full_like(evidence, 1 - 2 / n_outputs))
    return torch.logaddexp(uniform, evidence) - variance.log()  # eq-bridge
