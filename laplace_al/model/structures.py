"""Which structure a posterior has: its class, curvature and updates, and whether it fits."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from laplace_al._common.devices import available_memory
from laplace_al.model.curvatures import full_curvature_root, per_class_curvature, shared_curvature
from laplace_al.model.likelihoods import Likelihood, Mean
from laplace_al.model.mode import Labelled
from laplace_al.model.posterior import FullPosterior, PerClassPosterior, Posterior, SharedPosterior
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.updates import (
    CoupledMapUpdate,
    CoupledNewtonUpdate,
    MapUpdate,
    NewtonUpdate,
    Rule,
)

AUTO_LIMIT = 2**25
"""``covariance="auto"`` takes ``per_class`` up to so many numbers: 256 MiB of float64."""


CovarianceName: TypeAlias = Literal["auto", "shared", "per_class", "full"]
CurvatureName: TypeAlias = Literal["secant", "categorical", "gaussian"]
UpdateName: TypeAlias = Literal["map", "newton"]


class Structure(NamedTuple):
    """What belongs to one value of the parameter ``covariance``.

    Parameters
    ----------
    posterior : type
        Subclass of :class:`laplace_al.model.posterior.Posterior`.
    curvatures : dict of str to callable
        By the parameter ``curvature``: a mean of targets to weights in the precision.
    newton, map : type
        Update rules.
    """

    posterior: type[Posterior]
    curvatures: dict[str, Callable[[Any], Any]]
    newton: Callable[..., Rule]
    map: Callable[..., Rule]

    def update(
        self,
        likelihood: Likelihood,
        *,
        update: UpdateName,
        curvature: CurvatureName,
        step_size: float,
    ) -> Rule:
        """The update rule of the parameters.

        Parameters
        ----------
        likelihood : Bernoulli or Categorical
        update : {"map", "newton"}
        curvature : {"secant", "categorical", "gaussian"}
            A new label has no secant yet: ``"map"`` stiffens it by what is known of its logits,
            ``"newton"`` takes the curvature of the softmax.
        step_size : float
            Of ``"newton"``.

        Returns
        -------
        callable

        Examples
        --------
        >>> from laplace_al.model.likelihoods import Bernoulli
        >>> rule = STRUCTURES["shared"].update(
        ...     Bernoulli(), update="newton", curvature="gaussian", step_size=2.0)
        >>> rule.step_size
        2.0
        """
        weigh = self._weigh(curvature)
        if update == "map":
            return self.map(likelihood, weigh, curvature == "secant")
        return self.newton(likelihood, weigh, step_size)

    def at_mode(
        self,
        data: Labelled,
        mean: torch.Tensor,
        curvature: CurvatureName,
        prior: IsotropicPrior,
        *,
        stiffening: torch.Tensor | None = None,
    ) -> Posterior:
        """Laplace approximation around a mode.

        Parameters
        ----------
        data : Labelled
        mean : Tensor of shape (D, C)
        curvature : {"secant", "categorical", "gaussian"}
        prior : IsotropicPrior
        stiffening : Tensor of shape (n, C), default=None
            See :meth:`curvature`.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.likelihoods import Bernoulli
        >>> one = torch.ones(1, 1)
        >>> data, prior = Labelled(one, one, one[0], Bernoulli()), IsotropicPrior(0 * one, 1.0)
        >>> STRUCTURES["shared"].at_mode(data, 0 * one, "categorical", prior).precision
        tensor([[1.2500]])
        """
        probabilities = data.likelihood.mean(data.features @ mean)
        weighted = self.curvature(curvature, probabilities, data.weights, stiffening)
        return self.posterior.at_mode(mean, data.features, weighted, prior.precision, prior.mean)

    def curvature(
        self,
        name: CurvatureName,
        probabilities: Mean[torch.Tensor],
        weights: torch.Tensor,
        stiffening: torch.Tensor | None = None,
    ) -> torch.Tensor | Callable[[int], torch.Tensor]:
        """Weights of instances in the precision at a mode.

        Parameters
        ----------
        name : {"secant", "categorical", "gaussian"}
        probabilities : Mean
            p (n, C) at the mode.
        weights : Tensor of shape (n,)
            s.
        stiffening : Tensor of shape (n, C), default=None
            Of ``"secant"``, see :func:`laplace_al.model.curvatures.secant_stiffening`. A shared
            curvature takes that of the most probable class.

        Returns
        -------
        Tensor of shape (n, G) or callable
            Of the full structure a function from the place of an instance to a root (C, C).

        Examples
        --------
        >>> half = Mean(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
        >>> STRUCTURES["per_class"].curvature("categorical", half, torch.ones(1))
        tensor([[0.2500, 0.2500]])
        """
        weigh = self._weigh(name)
        if self.posterior is FullPosterior:  # a root for each instance, made as it is needed

            def root(i: int) -> torch.Tensor:
                of_instance = Mean(*(part[i : i + 1] for part in probabilities))
                matrix = weights[i].sqrt() * weigh(of_instance)
                return matrix if stiffening is None else stiffening[i, :, None].sqrt() * matrix

            return root
        curvature = weights[:, None] * weigh(probabilities)
        if stiffening is None:
            return curvature
        if curvature.shape[1] < stiffening.shape[1]:
            top = probabilities.p.argmax(dim=1, keepdim=True)
            stiffening = stiffening.gather(1, top)
        return curvature * stiffening

    def information(self, features: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        """What instances add to the precision by the curvature of each output on its own.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        curvature : Tensor of shape (n, G), or (n, C) of the full structure

        Returns
        -------
        Tensor of shape (G, N, N)

        Examples
        --------
        >>> STRUCTURES["full"].information(torch.ones(1, 1), torch.tensor([[1.0, 4.0]]))
        tensor([[[1., 0.],
                 [0., 4.]]])
        """
        if self.posterior is FullPosterior:
            roots = curvature.sqrt()
            return self.posterior.information(features, lambda i: torch.diag(roots[i]))
        return self.posterior.information(features, curvature)

    def _weigh(self, name: CurvatureName) -> Callable[[Any], Any]:
        return self.curvatures["categorical" if name == "secant" else name]


STRUCTURES = {
    "shared": Structure(
        SharedPosterior,
        {"categorical": shared_curvature, "gaussian": lambda mean: mean.p[..., :1] * 0 + 1},
        NewtonUpdate,
        MapUpdate,
    ),
    "per_class": Structure(
        PerClassPosterior,
        {"categorical": per_class_curvature, "gaussian": lambda mean: mean.p * 0 + 1},
        NewtonUpdate,
        MapUpdate,
    ),
    "full": Structure(
        FullPosterior,
        {
            "categorical": full_curvature_root,
            "gaussian": lambda mean: torch.eye(mean.p.shape[1]).to(mean.p),
        },
        CoupledNewtonUpdate,
        CoupledMapUpdate,
    ),
}


def choose_structure(
    name: str, n_features: int, n_outputs: int, *, dtype: torch.dtype, device: torch.device
) -> str:
    """Name of a structure that fits into memory.

    Parameters
    ----------
    name : {"auto", "shared", "per_class", "full"}
        ``"auto"`` is ``"per_class"`` up to :data:`AUTO_LIMIT` numbers, else ``"shared"``, which
        is also what it is for a single output: the structures then agree.
    n_features, n_outputs : int
        Shape of the weights.
    dtype : torch.dtype
    device : torch.device

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it would not fit; names those that would.

    Examples
    --------
    >>> cpu = {"dtype": torch.float64, "device": torch.device("cpu")}
    >>> choose_structure("auto", 384, 10, **cpu), choose_structure("auto", 1024, 1000, **cpu)
    ('per_class', 'shared')
    """
    shape = (n_features, n_outputs)
    if name == "auto":
        fits = n_outputs > 1 and _numbers("per_class", *shape) <= AUTO_LIMIT
        name = "per_class" if fits else "shared"
    available = available_memory(device)
    needed = {other: dtype.itemsize * _numbers_of_fit(other, *shape) for other in STRUCTURES}
    if needed[name] > available:
        smaller = [other for other in STRUCTURES if needed[other] <= available]
        cure = (
            f"Use covariance={' or '.join(map(repr, smaller))}."
            if smaller
            else "Reduce the features, e.g. with PCA."
        )
        raise ValueError(
            f"covariance={name!r} needs {needed[name] / 2**30:.1f} GiB for {n_features} features "
            f"and {n_outputs} outputs, and {available / 2**30:.1f} GiB are available. {cure}"
        )
    return name


def _numbers(name: str, n_features: int, n_outputs: int) -> int:
    n_roots, size = STRUCTURES[name].posterior.shape_of_root(n_features, n_outputs)
    return n_roots * size**2


def _numbers_of_fit(name: str, n_features: int, n_outputs: int) -> int:
    """As measured: the roots, those that replace them, and what it takes to make one of them."""
    n_roots, size = STRUCTURES[name].posterior.shape_of_root(n_features, n_outputs)
    return (3 * n_roots + 6) * size**2
