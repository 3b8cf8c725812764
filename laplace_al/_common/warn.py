"""Warnings that point at the user's line, however deep in the package they arise."""

import os
import sys
import warnings

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
# What calls this package for the user, or wraps its methods.
_WRAPPERS = {"contextlib", "dask", "functools", "joblib", "sklearn", "torch"}


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that belongs to neither this package nor one of its wrappers."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and (
        # by the file: in a doctest of this package, globals have the name of its module
        frame.f_code.co_filename.startswith(_PACKAGE)
        or str(frame.f_globals.get("__name__")).partition(".")[0] in _WRAPPERS
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
