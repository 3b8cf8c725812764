import copy
import pickle
import threading

import pytest

from laplace_al._common.synchronized import ObjectLock, synchronized


class Counter:
    def __init__(self):
        self._lock, self.count = ObjectLock(), 0

    @synchronized
    def add(self, number):
        """Add in two steps."""
        before = self.count
        threading.Event().wait(1e-4)
        self.count = before + number
        return self

    @synchronized
    def add_twice(self, number):
        return self.add(number).add(number)


def test_calls_wait_for_each_other_and_may_call_each_other():
    counter = Counter()
    threads = [threading.Thread(target=counter.add_twice, args=[1]) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.count == 40


def test_an_error_frees_the_lock():
    counter = Counter()
    with pytest.raises(TypeError):
        counter.add("one")
    other = threading.Thread(target=counter.add, args=[1], daemon=True)
    other.start()
    other.join(60)
    assert counter.count == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_a_free_lock_of_its_own(copied):
    counter = Counter()
    with counter._lock:
        twin = copied(counter)
        other = threading.Thread(target=twin.add, args=[1], daemon=True)
        other.start()
        other.join(60)
    assert twin.count == 1


def test_the_method_keeps_its_name_and_docstring():
    assert (Counter.add.__name__, Counter.add.__doc__) == ("add", "Add in two steps.")
