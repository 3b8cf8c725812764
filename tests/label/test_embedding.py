import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix

from laplace_al.label.embedding import EmbeddingError, cached, embed, inputs
from laplace_al.label.items import ImageFolder, Table

X = np.arange(6.0).reshape(3, 2)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,n,flag\nbig cat,1,True\nbig dog,,False\nno cat,3,True\n")
    return path


class TestEmbed:
    def test_what_the_callable_is_given(self, table, tmp_path):
        assert inputs(Table(table, text="text")) == ["big cat", "big dog", "no cat"]
        assert inputs(Table(table))[0] == {"text": "big cat", "n": 1.0, "flag": True}
        (tmp_path / "a.png").touch()
        assert inputs(ImageFolder(tmp_path)) == [tmp_path / "a.png"]

    def test_a_function_of_the_user(self, table, tmp_path, monkeypatch):
        (tmp_path / "of_mine.py").write_text(
            "class Model:\n"
            "    def lengths(self, texts):\n"
            "        return [[len(text)] for text in texts]\n"
            "    def fail(self, texts):\n"
            "        return texts[99]\n"
            "model = Model()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        items = Table(table, text="text")
        np.testing.assert_array_equal(embed(items, "of_mine:model.lengths"), [[7], [7], [6]])
        with pytest.raises(
            EmbeddingError, match=r"of_mine:model\.fail failed on the 3 rows"
        ) as got:
            embed(items, "of_mine:model.fail")
        assert isinstance(got.value.__cause__, IndexError)

    @pytest.mark.parametrize("target", ["no_such_module:f", "math:no_such", "math", ":", ""])
    def test_targets_that_are_none(self, table, target):
        with pytest.raises(ValueError, match="--embed must be MODULE:CALLABLE"):
            embed(Table(table), target)

    def test_in_batches(self, table, monkeypatch):
        table.write_text("text\n" + "".join(f"{i}\n" for i in range(150)))
        calls = []

        def embedding(texts):
            calls.append(texts)
            return [[float(text)] for text in texts]

        ragged = types.SimpleNamespace(
            f=embedding, g=lambda texts: np.ones((len(texts), len(texts)))
        )
        monkeypatch.setitem(sys.modules, "of_mine", ragged)
        items = Table(table, text="text")
        np.testing.assert_array_equal(embed(items, "of_mine:f")[:, 0], np.arange(150))
        assert [len(texts) for texts in calls] == [64, 64, 22]
        with pytest.raises(ValueError, match=r"got 22 columns for the 22 rows from '128' on, 64"):
            embed(items, "of_mine:g")

    def test_images_that_cannot_be_read_are_not_embedded(self, tmp_path, monkeypatch):
        for name in ("a.png", "c.tif"):
            Image.new("L", (2, 2)).save(tmp_path / name)
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
        module = types.SimpleNamespace(f=lambda paths: [[ord(path.name[0])] for path in paths])
        monkeypatch.setitem(sys.modules, "of_mine", module)
        items = ImageFolder(tmp_path)
        features = embed(items, "of_mine:f")
        np.testing.assert_array_equal(features[:, 0], [97, 98, 99])  # b gets the mean
        assert list(items.unreadable) == [1]

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("builtins:len", "it must return one array of shape"),
            ("builtins:list", "it must return one row of features per input"),
            ("of_mine:f", "it returned NaN or infinity for 1 of 3 inputs, the first at row 2"),
        ],
    )
    def test_results_are_checked(self, table, target, reason, monkeypatch):
        monkeypatch.setitem(
            sys.modules, "of_mine", types.SimpleNamespace(f=lambda _: [[1], [2], [np.nan]])
        )
        items = Table(table, text="text")
        with pytest.raises(ValueError, match=f"--embed {target}, on the 3 rows from .*{reason}"):
            embed(items, target)

    @pytest.mark.parametrize(
        "made",
        [
            torch.tensor(X, requires_grad=True),
            torch.tensor(X).bfloat16(),
            csr_matrix(X),
            pd.DataFrame(X).assign(flag=True),
        ],
        ids=["gradient", "bfloat16", "sparse", "frame"],
    )
    def test_what_a_classifier_takes_of_an_extractor(self, table, made, monkeypatch):
        monkeypatch.setitem(sys.modules, "of_mine", types.SimpleNamespace(f=lambda _: made))
        features = embed(Table(table, text="text"), "of_mine:f")
        np.testing.assert_array_equal(features[:, : X.shape[1]], X)


class TestCached:
    @pytest.fixture
    def calls(self, monkeypatch):
        """The number of texts in each call of ``of_mine:lengths``."""
        calls = []

        def lengths(texts):
            calls.append(len(texts))
            return [[float(len(text))] for text in texts]

        module = types.SimpleNamespace(lengths=lengths, others=lambda texts: lengths(texts))
        monkeypatch.setitem(sys.modules, "of_mine", module)
        return calls

    def test_made_once(self, table, tmp_path, calls):
        for _ in range(2):
            got = cached(tmp_path / "x.npy", Table(table, text="text"), "of_mine:lengths")
            np.testing.assert_array_equal(got, [[7], [7], [6]])
        assert calls == [3]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "x.npy"]
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), got)

    def test_no_file(self, table, calls):
        assert cached(None, Table(table, text="text"), "of_mine:lengths").shape == (3, 1)

    def test_of_another_embedding(self, table, tmp_path, calls):
        items = Table(table, text="text")
        cached(tmp_path / "x.npy", items, "of_mine:lengths")
        with pytest.raises(
            ValueError,
            match=r"x\.npy' was not made by --embed of_mine:others .*, but by --embed of_mine:len",
        ):
            cached(tmp_path / "x.npy", items, "of_mine:others")

    @pytest.mark.parametrize("content", ["text,n\nbig cat,1\nbig dog,2\nno pet,3\n", "text\na\n"])
    def test_of_other_items(self, table, tmp_path, calls, content):
        cached(tmp_path / "x.npy", Table(table, text="text"), "of_mine:lengths")
        table.write_text(content)
        with pytest.raises(ValueError, match="of others: their names or contents"):
            cached(tmp_path / "x.npy", Table(table, text="text"), "of_mine:lengths")

    def test_of_the_same_items_as_something_else(self, table, tmp_path, calls):
        table.write_text("text,n\nab,cde\nab,cde\n")
        cached(tmp_path / "x.npy", Table(table, text="text"), "of_mine:lengths")
        with pytest.raises(ValueError, match="of others: their names or contents differ"):
            cached(tmp_path / "x.npy", Table(table, text="n"), "of_mine:lengths")

    def test_of_images_of_the_same_names(self, tmp_path, calls):
        for name, side in {"one": 4, "other": 90}.items():
            (tmp_path / name).mkdir()
            Image.new("L", (side, side)).save(tmp_path / name / "a.png")
        module = sys.modules["of_mine"]
        module.names = lambda paths: [[len(path.name)] for path in paths]
        cached(tmp_path / "x.npy", ImageFolder(tmp_path / "one"), "of_mine:names")
        cached(tmp_path / "x.npy", ImageFolder(tmp_path / "one"), "of_mine:names")
        with pytest.raises(ValueError, match="of others"):
            cached(tmp_path / "x.npy", ImageFolder(tmp_path / "other"), "of_mine:names")

    def test_which_images_were_left_out_is_kept(self, tmp_path, calls):
        (tmp_path / "p").mkdir()
        Image.new("L", (2, 2)).save(tmp_path / "p/a.png")
        (tmp_path / "p/b.png").write_bytes((tmp_path / "p/a.png").read_bytes()[:-30])
        sys.modules["of_mine"].names = lambda paths: [[len(path.name)] for path in paths]
        for _ in range(2):
            items = ImageFolder(tmp_path / "p")
            cached(tmp_path / "x.npy", items, "of_mine:names")
            assert list(items.unreadable) == [1]

    @pytest.mark.parametrize("content", [None, b"", b"no array", b"{}"])
    def test_another_file(self, table, tmp_path, calls, content):
        if content is None:
            np.save(tmp_path / "x.npy", X)
        else:
            (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"it does not say what it was made of\. Delete it"):
            cached(tmp_path / "x.npy", Table(table, text="text"), "of_mine:lengths")
        assert not calls

    def test_other_suffixes(self, table, tmp_path):
        with pytest.raises(ValueError, match=r"--cache must end in \.npy"):
            cached(tmp_path / "x.npz", Table(table), "math:sqrt")
