import pytest

from laplace_al.transaction import all_or_nothing


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
