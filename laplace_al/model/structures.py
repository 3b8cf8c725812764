"""The structures of a posterior: their classes, curvatures and updates, and which one fits."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from laplace_al._common.devices import available_memory
from laplace_al.model.curvatures import (
    full_curvature_root,
    identity_root,
    per_class_curvature,
    per_class_unit_curvature,
    shared_curvature,
    shared_unit_curvature,
)
from laplace_al.model.leave_one_out import Laplace, low_rank_laplace, per_class_laplace
from laplace_al.model.likelihoods import Likelihood, Mean
from laplace_al.model.mode import Labelled
from laplace_al.model.posterior import (
    FullPosterior,
    LowRankPosterior,
    PerClassPosterior,
    Posterior,
    SharedPosterior,
)
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.updates import (
    CoupledMapUpdate,
    CoupledNewtonUpdate,
    MapUpdate,
    NewtonUpdate,
    Rule,
)

AUTO_LIMIT = 2**25
"""``covariance="auto"`` is ``per_class`` up to so many numbers: 256 MiB of float64."""


CovarianceName: TypeAlias = Literal["auto", "shared", "low_rank", "per_class", "full"]
CurvatureName: TypeAlias = Literal["secant", "categorical", "gaussian"]
UpdateName: TypeAlias = Literal["map", "newton"]


class Structure(NamedTuple):
    """A value of the parameter ``covariance``, and what belongs to it.

    ``curvatures`` has, by the parameter ``curvature``, functions from the mean of targets to
    weights in the precision; ``newton`` and ``map`` are the update rules, and ``laplace`` finds
    what leave-one-out and evidence need at a mode.
    """

    name: str
    posterior: type[Posterior]
    curvatures: dict[str, Callable[[Any], Any]]
    newton: Callable[..., Rule]
    map: Callable[..., Rule]
    laplace: Callable[[torch.Tensor, torch.Tensor, float], Laplace] = per_class_laplace
    is_coupled: bool = False  # the logits of an instance are correlated

    def update(
        self,
        likelihood: Likelihood,
        *,
        update: UpdateName,
        curvature: CurvatureName,
        step_size: float,
    ) -> Rule:
        """Return the update rule of the parameters; ``step_size`` is that of ``"newton"``.

        A new label has no secant yet: ``"map"`` stiffens it by what is known of its logits,
        ``"newton"`` takes the curvature of the softmax.
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
        """Return the Laplace approximation around a mode (D, C), see :meth:`curvature`."""
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
        """Return the weights (n, G) of instances in the precision, at probabilities (n, C).

        Where the outputs are coupled, it is a function from the place of an instance to a root
        (C, C). ``weights`` (n,) are s. ``stiffening`` (n, C) is that of ``"secant"``, see
        :func:`laplace_al.model.curvatures.secant_stiffening`; a shared curvature takes that of the
        most probable class.
        """
        weigh = self._weigh(name)
        if self.is_coupled:  # a root for each instance, made as it is needed

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
        """Return what features (n, D) with curvatures (n, G) add to the precision, (G, N, N).

        Where the outputs are coupled, the curvatures (n, C) are the diagonal of theirs.
        """
        if self.is_coupled:
            roots = curvature.sqrt()
            return self.posterior.information(features, lambda i: torch.diag(roots[i]))
        return self.posterior.information(features, curvature)

    def _weigh(self, name: CurvatureName) -> Callable[[Any], Any]:
        return self.curvatures["categorical" if name == "secant" else name]


STRUCTURES = {
    structure.name: structure
    for structure in (
        Structure(
            "shared",
            SharedPosterior,
            {"categorical": shared_curvature, "gaussian": shared_unit_curvature},
            NewtonUpdate,
            MapUpdate,
        ),
        Structure(
            "per_class",
            PerClassPosterior,
            {"categorical": per_class_curvature, "gaussian": per_class_unit_curvature},
            NewtonUpdate,
            MapUpdate,
        ),
        Structure(
            "low_rank",
            LowRankPosterior,
            {"categorical": per_class_curvature, "gaussian": lambda mean: mean.p * 0 + 1},
            NewtonUpdate,
            MapUpdate,
            low_rank_laplace,
        ),
        Structure(
            "full",
            FullPosterior,
            {"categorical": full_curvature_root, "gaussian": identity_root},
            CoupledNewtonUpdate,
            CoupledMapUpdate,
            is_coupled=True,
        ),
    )
}


def structure_of(posterior: Posterior) -> Structure:
    """Return the structure of a posterior."""
    return next(one for one in STRUCTURES.values() if one.posterior is type(posterior))


def choose_structure(
    name: str, n_features: int, n_outputs: int, *, dtype: torch.dtype, device: torch.device
) -> str:
    """Return the name of a structure for weights (n_features, n_outputs) that fits into memory.

    ``"auto"`` is ``"per_class"`` up to :data:`AUTO_LIMIT` numbers, else ``"low_rank"``, and
    ``"shared"`` for a single output: the structures then agree. Raises ValueError if it would not
    fit; names those that would.
    """
    shape = (n_features, n_outputs)
    if name == "auto":
        is_small = PerClassPosterior.n_numbers(*shape) <= AUTO_LIMIT
        name = "per_class" if is_small else "low_rank"
        name = "shared" if n_outputs == 1 else name
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


def _numbers_of_fit(name: str, n_features: int, n_outputs: int) -> int:
    """Return how many: the roots, those that replace them, and, as measured, those to make one."""
    posterior = STRUCTURES[name].posterior
    _, size = posterior.shape_of_root(n_features, n_outputs)
    return 3 * posterior.n_numbers(n_features, n_outputs) + 6 * size**2
