"""All or nothing: an object is seen as it was before a call or after it, never in between.

What is published is one dictionary of attributes, which a call replaces at once and never changes.
So a call that fails, or is interrupted, has changed nothing, and other threads see no mixture.
Whoever assigns an attribute, as ``set_params`` does, changes that dictionary in place. A call that
finds at its end that this has happened meanwhile publishes nothing, and says so.
"""

import functools
import os
import threading
from typing import Any, Self, TypeVar, cast

from laplace_al._common.typing import Method

_Made = TypeVar("_Made")


def all_or_nothing(method: Method) -> Method:
    """Make a method work on a draft of its object, whose attributes become the object's at the end.

    Methods must rebind values rather than change them in place. Every exception counts,
    KeyboardInterrupt too, and goes on.

    Parameters
    ----------
    method : callable
        A method that changes ``self`` by assigning attributes.

    Returns
    -------
    callable
        Raises RuntimeError if another thread has changed the object in the meantime, by such a
        method or by assigning an attribute, in place of losing what that one did.

    Examples
    --------
    >>> class Counter:
    ...     count = 0
    ...     @all_or_nothing
    ...     def add(self, number):
    ...         self.count += 1
    ...         self.total = 1 / number
    >>> counter = Counter()
    >>> counter.add(0)
    Traceback (most recent call last):
        ...
    ZeroDivisionError: division by zero
    >>> counter.count
    0
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        published = vars(self)
        before = dict(published)
        draft = _object_of(type(self), dict(before))
        result = method(draft, *args, **kwargs)
        # No function is called from here to the publication, so that under the interpreter's lock
        # no other thread comes in between. Nor does == call any: the same object is equal to it.
        try:
            is_untouched = self.__dict__ is published and published == before
        except Exception:  # by a value that is another one, and does not compare: an array, say
            is_untouched = False
        if is_untouched:
            self.__dict__ = draft.__dict__
            return self if result is draft else result
        raise RuntimeError(
            f"{type(self).__name__} was changed by another thread during "
            f"{method.__name__.lstrip('_')}, which therefore changed nothing. Hold a lock around "
            "calls that change it."
        )

    return cast(Method, guarded)


def on_one_state(method: Method) -> Method:
    """Make a method see its object as it is now, whatever is published while it runs.

    Parameters
    ----------
    method : callable
        A method that changes nothing.

    Returns
    -------
    callable

    Examples
    --------
    >>> class Pair:
    ...     first = second = 0
    ...     @all_or_nothing
    ...     def set(self, number):
    ...         self.first = self.second = number
    ...     @on_one_state
    ...     def get(self, meanwhile):
    ...         first = self.first
    ...         meanwhile()
    ...         return first, self.second
    >>> pair = Pair()
    >>> pair.get(meanwhile=lambda: pair.set(1)), pair.get(meanwhile=lambda: None)
    ((0, 0), (1, 1))
    """

    @functools.wraps(method)
    def reading(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(_object_of(type(self), vars(self)), *args, **kwargs)

    return cast(Method, reading)


class Turn:
    """A lock for calls of one object, which may call each other.

    A copy, pickle or fork of the object has a free one of its own.

    Examples
    --------
    >>> turn = Turn()
    >>> with turn, turn:
    ...     pass
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


def in_turn(method: Method) -> Method:
    """Make a method wait until no other one of these runs on its object, which has a ``_turn``.

    Parameters
    ----------
    method : callable

    Returns
    -------
    callable

    Examples
    --------
    >>> class Counter:
    ...     _turn, count = Turn(), 0
    ...     @in_turn
    ...     def add(self):
    ...         self.count += 1
    >>> counter = Counter()
    >>> counter.add()
    >>> counter.count
    1
    """

    @functools.wraps(method)
    def waiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._turn:
            return method(self, *args, **kwargs)

    return cast(Method, waiting)


def _object_of(kind: type[_Made], attributes: dict[str, Any]) -> _Made:
    """An object of a class with such attributes."""
    made = object.__new__(kind)
    made.__dict__ = attributes
    return made
