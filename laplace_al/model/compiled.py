"""The recursion over a block of labels, and the updates by one label, compiled by numba.

In loops over plain numbers, this is what :mod:`laplace_al.model.posterior.grouped` and the rules
for independent outputs of :mod:`laplace_al.model.updates` do on NumPy vectors, where the
interpreter takes longer than the arithmetic. They are what runs without numba, and what the tests
compare this with.

numba is an optional dependency, ``pip install laplace_al[fast]``, as it is large and follows new
versions of Python and NumPy with a delay. Nothing imports this module before the first label is
learnt. That takes four to five seconds once, to compile; later processes take half a second, to
import numba and load what is kept in ``__pycache__`` beside this file, or in the user's cache
directory if that cannot be written to. What is kept counts as long as this file is the same: hence
all that is compiled stands here, and a change of a constant that is imported needs one here.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from laplace_al._common.typing import Vector
from laplace_al.model.curvatures import STEEPEST
from laplace_al.model.label_mode import MAX_HALVINGS, MAX_STEPS, ROUNDING, STEP_TOLERANCE

_TINY = float(np.finfo(np.float64).tiny)
_LARGEST = 1 / (STEEPEST * _TINY)

_plain = numba.njit(error_model="numpy", nogil=True)
_sums = numba.njit(error_model="numpy", nogil=True, fastmath={"reassoc", "contract"})


def kept(function: Any) -> Any:
    """Compile a function with all that it calls, and keep the result if there is a place for it."""
    try:
        return numba.njit(function, error_model="numpy", nogil=True, cache=True)
    except RuntimeError:  # no directory can be written to: each process compiles
        return _plain(function)


class RuleNumbers(NamedTuple):
    """An update rule of independent outputs: the mode of a label, or a Newton step.

    A Gaussian curvature is 1 for each label; the step size is that of the Newton step.
    """

    is_map: bool
    is_gaussian: bool
    is_stiffened: bool
    step_size: float


class Learnt(NamedTuple):
    """What a block of b labels changes, and what each label meets and does.

    ``factor`` is T (G, k, k) and ``shift`` c (G, k, m) of eq-block. Of each label there are the
    logits (b, C) and variances (b, G) before it is learnt, a (b, C) and h (b, G). They mean nothing
    if not all was ``found``.
    """

    found: bool
    factor: Vector
    shift: Vector
    logits: Vector
    variance: Vector
    coefficients: Vector
    curvature: Vector


@_plain
def _derivatives(
    logits: Vector, target: Vector, p: Vector, complement: Vector, residual: Vector
) -> float:
    """Write p, 1 - p and y - p (C,), and return -log p(y | z)."""
    n = len(logits)
    if n == 1:
        z = logits[0]
        odds = math.exp(-abs(z))
        p[0] = (1.0 if z > 0.0 else odds) / (1.0 + odds)
        complement[0] = (odds if z > 0.0 else 1.0) / (1.0 + odds)
        residual[0] = complement[0] if target[0] > 0.0 else -p[0]
        return math.log1p(odds) + max(0.0, (1.0 - 2.0 * target[0]) * z)
    label, top = 0, 0
    for k in range(1, n):
        if target[k] > target[label]:
            label = k
        if logits[k] > logits[top]:
            top = k
    others = 0.0  # only the largest can be more than half of the sum, and cancel
    for k in range(n):
        p[k] = math.exp(logits[k] - logits[top])
        if k != top:
            others += p[k]
    for k in range(n):
        p[k] /= 1.0 + others
        complement[k] = others / (1.0 + others) if k == top else 1.0 - p[k]
        residual[k] = complement[k] if k == label else -p[k]
    return math.log1p(others) + (logits[top] - logits[label])


@_plain
def _find_mode(
    logits: Vector,
    variance: Vector,
    weight: float,
    target: Vector,
    value: float,
    a: Vector,
    p: Vector,
    complement: Vector,
    residual: Vector,
) -> bool:
    """Write the a (C,) of a label of such weight, and p and 1 - p at the mode, if it is found.

    As :func:`laplace_al.model.label_mode.mode_coefficients` does. What is written to begins as
    :func:`_derivatives` at the logits, which returned the value.
    """
    n, each = len(logits), min(1, len(variance) - 1)
    step, moved, shift = np.empty(n), np.empty(n), np.zeros(n)
    size = 0.0
    for k in range(n):
        size = max(size, abs(logits[k]))
    for _ in range(MAX_STEPS + 2 * n):
        # (I + diag(v) (diag p - p p^T)) step = v (y - p) - shift, eq-shift times v
        total, share = 0.0, 0.0
        for k in range(n):
            v = weight * variance[k * each]
            step[k] = v * residual[k] - shift[k]
            ratio = p[k] / (1.0 + v * p[k])
            total += ratio
            share += ratio * step[k]
        slope, longest, widest = 0.0, 0.0, 0.0
        for k in range(n):
            v = weight * variance[k * each]
            descent = step[k]
            if n == 1:
                step[k] = descent / (1.0 + v * p[k] * complement[k])
            else:
                step[k] = (descent + v * p[k] * (share / total)) / (1.0 + v * p[k])
            if v > _TINY:
                slope -= descent / v * step[k]
            longest, widest = max(longest, abs(step[k])), max(widest, abs(shift[k]))
        bound = value + 1e-14 * (1.0 + abs(value) + size + widest)
        length, is_low = 1.0, False
        for _ in range(MAX_HALVINGS):
            penalty = 0.0
            for k in range(n):
                v = weight * variance[k * each]
                e = shift[k] + length * step[k]
                moved[k] = logits[k] + e
                if v > _TINY:
                    penalty += e / v * e
            value = _derivatives(moved, target, p, complement, residual) + penalty / 2.0
            is_low = value <= bound + 1e-4 * length * slope
            if is_low:
                break
            length /= 2.0
        if not is_low:
            return False
        for k in range(n):
            shift[k] += length * step[k]
        if longest <= STEP_TOLERANCE + ROUNDING * (size + widest + longest):
            for k in range(n):
                v = weight * variance[k * each]
                a[k] = weight * (residual[k] if v <= 1.0 else shift[k] / v)
            return True
    return False


@_plain
def _stiffen(
    before: Vector, p: Vector, complement: Vector, v: Vector, prior: float, h: Vector
) -> None:
    """Multiply h (1,) or (C,) by eq-open, if there are several, and add eq-steepening."""
    n = len(h)
    least, lowest = v.min() + _TINY, 1e300
    for k in range(len(p)):
        after = p[k] * complement[k]
        grown = min(max(math.sqrt(after / (before[k] + _TINY)), 1.0), STEEPEST)
        lowest = min(lowest, grown)
        if n > 1:
            odds = math.log((p[k] + _TINY) / (complement[k] + _TINY))
            mirror = 0.25 if abs(odds) < 1e-3 else (p[k] - complement[k]) / (2.0 * odds)
            share = (least / (v[k] + _TINY)) ** 0.75
            h[k] *= (mirror / (after + _TINY)) ** (1.0 - share)
            known = max(1.0 / (v[k] + _TINY) - 1.0 / prior, 0.0)
            h[k] += (grown - 1.0) * min(known, _LARGEST)
    if n == 1:
        known = max(1.0 / (v[0] + _TINY) - 1.0 / prior, 0.0)
        h[0] += (lowest - 1.0) * min(known, _LARGEST)


@_plain
def _learn(
    rule: RuleNumbers,
    logits: Vector,
    variance: Vector,
    target: Vector,
    weight: float,
    prior: float,
    a: Vector,
    h: Vector,
) -> bool:
    """Write the a (C,) and h (1,) or (C,) of a label, and whether they were found."""
    n = len(logits)
    p, complement, residual, before = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    value = _derivatives(logits, target, p, complement, residual)
    if rule.is_map:
        for k in range(n):
            before[k] = p[k] * complement[k]
        if not _find_mode(logits, variance, weight, target, value, a, p, complement, residual):
            return False
    h[:] = 1.0 if rule.is_gaussian else 0.0
    if not rule.is_gaussian:
        for k in range(n):
            place = min(k, len(h) - 1)
            h[place] = max(h[place], p[k] * complement[k])  # eq-per-class, eq-shared
    h *= weight
    if not rule.is_map:
        for k in range(n):
            place = min(k, len(h) - 1)
            a[k] = rule.step_size * weight / (1.0 + h[place] * variance[place]) * residual[k]
    elif rule.is_stiffened:
        _stiffen(before, p, complement, variance, prior, h)
    return True


@_sums
def _dot(left: Vector, right: Vector, n: int) -> float:
    """Multiply the first n numbers of two vectors."""
    total = 0.0
    for k in range(n):
        total += left[k] * right[k]
    return total


@_plain
def _add(to: Vector, scale: float, other: Vector, n: int) -> None:
    """Add a multiple of the first n numbers of a vector to those of another."""
    for k in range(n):
        to[k] += scale * other[k]


@kept
def learn_block(
    rule: RuleNumbers,
    rows: Vector,
    logits: Vector,
    targets: Vector,
    weights: Vector,
    prior_variance: Vector,
) -> Learnt:
    """Learn the rows of a block one after another, by :class:`GroupedPosterior`'s recursion.

    l_i are the rows (b, G, k); all arrays are contiguous and of float64. Targets other than 0 and 1
    are not for it.
    """
    n_rows, n_groups, size = rows.shape
    n_columns = logits.shape[1] // n_groups
    factor, shift = np.zeros((n_groups, size, size)), np.zeros((n_groups, size, n_columns))
    for g in range(n_groups):
        for k in range(size):
            factor[g, k, k] = 1.0
    met, variance = logits.copy(), np.zeros((n_rows, n_groups))
    a, h = np.zeros(logits.shape), np.zeros((n_rows, n_groups))
    whitened = np.zeros((n_groups, size))
    reach = np.zeros(n_groups, np.int64)  # beyond it, no row so far has coordinates
    for y in targets.flat:
        if y != 0.0 and y != 1.0:
            return Learnt(False, factor, shift, met, variance, a, h)
    for i in range(n_rows):
        for g in range(n_groups):
            row, w = rows[i, g], whitened[g]
            first = g * n_columns
            w[:] = 0.0
            for k in range(size):
                if row[k] != 0.0:
                    reach[g] = max(reach[g], k + 1)
                    _add(w, row[k], factor[g, k], reach[g])  # w_i = T^T l_i
                    _add(met[i, first : first + n_columns], row[k], shift[g, k], n_columns)
            variance[i, g] = _dot(w, w, reach[g])
        found = _learn(
            rule, met[i], variance[i], targets[i], weights[i], prior_variance[i], a[i], h[i]
        )
        if not found:
            return Learnt(False, factor, shift, met, variance, a, h)
        for g in range(n_groups):
            w, first = whitened[g], g * n_columns
            scale = math.sqrt(1.0 + h[i, g] * variance[i, g])
            beta = h[i, g] / (scale * (1.0 + scale))  # of eq-root
            for k in range(reach[g]):
                direction = _dot(factor[g, k], w, reach[g])  # T w_i
                _add(shift[g, k], direction, a[i, first : first + n_columns], n_columns)
                _add(factor[g, k], -beta * direction, w, reach[g])
    return Learnt(True, factor, shift, met, variance, a, h)
