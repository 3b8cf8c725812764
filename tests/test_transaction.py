import pytest

from laplace_al.transaction import all_or_nothing, on_one_state


class Account:
    def __init__(self):
        self.balance, self.note = 1, "old"

    @all_or_nothing
    def change(self, error):
        """Change everything, then fail."""
        self.balance, self.new = 2, True
        del self.note
        if error is not None:
            raise error
        return self


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
def test_an_error_restores_every_attribute(error):
    account = Account()
    with pytest.raises(type(error)):
        account.change(error)
    assert vars(account) == {"balance": 1, "note": "old"}


def test_success_keeps_the_changes_and_the_result():
    account = Account()
    assert account.change(None) is account
    assert vars(account) == {"balance": 2, "new": True}


def test_the_method_keeps_its_name_and_docstring():
    assert Account.change.__name__ == "change"
    assert Account.change.__doc__ == "Change everything, then fail."


class Pair:
    first = second = 0

    @all_or_nothing
    def put(self, number, meanwhile=None):
        self.first = number
        if meanwhile is not None:
            meanwhile()
        self.second = number
        return self

    @on_one_state
    def get(self, meanwhile):
        first = self.first
        meanwhile()
        return first, self.second


def test_what_is_half_done_is_not_seen():
    pair, seen = Pair().put(1), []
    pair.put(2, meanwhile=lambda: seen.append((pair.first, pair.second)))
    assert seen == [(1, 1)]
    assert (pair.first, pair.second) == (2, 2)


def test_a_reader_goes_on_with_what_it_began_with():
    pair = Pair()
    assert pair.get(meanwhile=lambda: pair.put(1)) == (0, 0)
    assert pair.get(meanwhile=lambda: None) == (1, 1)


def test_no_change_of_another_thread_is_lost():
    pair = Pair()
    with pytest.raises(RuntimeError, match=r"changed by another thread during put.*Hold a lock"):
        pair.put(2, meanwhile=lambda: pair.put(1))
    assert (pair.first, pair.second) == (1, 1)
