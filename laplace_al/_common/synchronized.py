"""One lock per object, for methods that threads may not run side by side."""

import functools
import os
import threading
from typing import Any, Self, cast

from laplace_al._common.typing import Method


class ObjectLock:
    """A lock for the methods of one object, which may call each other.

    A copy, pickle or fork of the object has a free one of its own.
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    def __enter__(self) -> Self:
        if self._process != os.getpid():  # the thread that had it is not in this process
            self._lock, self._process = threading.RLock(), os.getpid()
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


def synchronized(method: Method) -> Method:
    """Make a method hold the ``_lock`` of its object, an :class:`ObjectLock`, while it runs."""

    @functools.wraps(method)
    def holding(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, holding)
