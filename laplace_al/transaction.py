"""All or nothing: a call that fails leaves its object as it was."""

import functools


def all_or_nothing(method):
    """Make a method restore the attributes of its object when it raises.

    Attributes are restored as they were bound, so methods must rebind values rather than
    change them in place. Every exception counts, KeyboardInterrupt too, and goes on.

    Parameters
    ----------
    method : callable
        A method that changes ``self`` by assigning attributes.

    Returns
    -------
    callable

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
    def guarded(self, *args, **kwargs):
        before = dict(vars(self))
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            attributes = vars(self)
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)
            raise

    return guarded
