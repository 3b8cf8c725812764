import contextlib
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from laplace_al.label.features import (
    check_features,
    given_features,
    pixels,
    plain_features,
    words,
)
from laplace_al.label.items import ImageFolder, Table

X = np.arange(6.0).reshape(3, 2)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,n,flag,same\nbig cat,1,True,4\nbig dog,,False,4\nno cat,3,True,4\n")
    return path


class TestGivenFeatures:
    def test_files(self, tmp_path):
        np.save(tmp_path / "x.npy", X)
        np.savez(tmp_path / "one.npz", X)
        np.savez(tmp_path / "named.npz", y=[1, 2, 3], features=X)
        (tmp_path / "x.csv").write_text("a,b\n0,1\n2,3\n4,5\n")
        for name in ("x.npy", "one.npz", "named.npz", "x.csv"):
            np.testing.assert_array_equal(given_features(tmp_path / name, 3), X)

    def test_the_index_of_a_frame_is_no_feature(self, tmp_path):
        frame = pd.DataFrame(X, columns=["a", "b"])
        frame.to_csv(tmp_path / "x.csv")
        np.testing.assert_array_equal(given_features(tmp_path / "x.csv", 3), X)
        frame.assign(a=[0, 1, 2]).to_csv(tmp_path / "x.csv", index=False)
        assert given_features(tmp_path / "x.csv", 3).shape == (3, 2)

    def test_semicolons(self, tmp_path):
        (tmp_path / "x.csv").write_text("a;b\n0;1,0\n2;3,0\n4;5,0\n")
        np.testing.assert_array_equal(given_features(tmp_path / "x.csv", 3), X)

    def test_rows_with_more_fields_than_the_header(self, tmp_path):
        (tmp_path / "x.csv").write_text("a,b\n0,1,\n1,3,\n2,5,\n")
        with pytest.raises(
            ValueError,
            match=r"x.csv' cannot be read as features: its first row has 3 fields, .*[^.]\.$",
        ):
            given_features(tmp_path / "x.csv", 3)

    def test_several_arrays_without_a_name(self, tmp_path):
        np.savez(tmp_path / "x.npz", train=X, test=X)
        with pytest.raises(
            ValueError,
            match=r"x.npz' cannot be read as features: it holds several arrays, train, test; call",
        ):
            given_features(tmp_path / "x.npz", 3)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
    def test_files_of_something_else(self, tmp_path, suffix):
        path = tmp_path / f"x{suffix}"
        with pytest.raises(ValueError, match="cannot be read as features"):
            given_features(path, 3)
        for content in (b"", b"\xff" if suffix == ".csv" else b"PK\x03\x04 and so on"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="cannot be read as features"):
                given_features(path, 3)

    def test_damaged_files(self, tmp_path):
        np.savez(tmp_path / "x.npz")
        with pytest.raises(ValueError, match=r"x.npz' cannot .*: it holds no array"):
            given_features(tmp_path / "x.npz", 3)
        np.save(tmp_path / "x.npy", X)
        huge = (
            (tmp_path / "x.npy")
            .read_bytes()
            .replace(b"(3, 2), }" + 12 * b" ", b"(3, 200000000000), }  ")
        )
        (tmp_path / "x.npy").write_bytes(huge)
        with pytest.raises(ValueError, match=r"x.npy' cannot be read as features"):
            given_features(tmp_path / "x.npy", 3)
        np.savez_compressed(tmp_path / "x.npz", np.random.default_rng(0).normal(size=(3, 99)))
        content = bytearray((tmp_path / "x.npz").read_bytes())
        for start in range(
            40, len(content) - 8, 40
        ):  # zlib notices some, the sum of the file others
            broken = content.copy()
            broken[start : start + 8] = bytes(8)
            (tmp_path / "x.npz").write_bytes(broken)
            with contextlib.suppress(ValueError):
                given_features(tmp_path / "x.npz", 3)

    def test_pickles_are_not_opened(self, tmp_path):
        np.save(tmp_path / "x.npy", np.array([{}, {}, {}]))
        with pytest.raises(ValueError, match="allow_pickle"):
            given_features(tmp_path / "x.npy", 3)

    def test_other_suffixes(self, tmp_path):
        with pytest.raises(ValueError, match=r"Features come from \.npy, \.npz or \.csv"):
            given_features(tmp_path / "x.parquet", 3)


class TestCheckFeatures:
    @pytest.mark.parametrize("features", [X[:2], X[0], X[:, :0], X[None]])
    def test_shapes(self, features):
        with pytest.raises(ValueError, match=r"x: .* a row for each of the 3 items"):
            check_features(features, 3, "x")

    @pytest.mark.parametrize("features", [X.astype(str), X.astype(object), X + 0j])
    def test_kinds(self, features):
        with pytest.raises(ValueError, match="features must be numbers"):
            check_features(features, 3, "x")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values(self, value):
        features = X.copy()
        features[2, 0] = value
        with pytest.raises(ValueError, match="NaN or infinite in row 2"):
            check_features(features, 3, "x")


class TestPlainFeatures:
    def test_numeric_columns(self, table):
        features, note = plain_features(Table(table))
        expected = [[-1.0, 0.5**0.5, 0.0], [0.0, -(2**0.5), 0.0], [1.0, 0.5**0.5, 0.0]]
        np.testing.assert_allclose(features, expected, atol=1e-15)
        assert note == (
            "the numeric columns, standardised: n, flag, same (1 missing or infinite values count "
            "as the mean)"
        )

    @pytest.mark.parametrize("value", ["inf", "-inf", "1e400"])
    @pytest.mark.parametrize("columns", [None, ["x", "y"]])
    def test_an_infinite_value_counts_as_the_mean(self, table, value, columns):
        table.write_text(f"x,y\n1,2\n{value},5\n7,2\n")
        features, note = plain_features(Table(table), columns)
        expected = [[-1.0, -(0.5**0.5)], [0.0, 2**0.5], [1.0, -(0.5**0.5)]]
        np.testing.assert_allclose(features, expected, atol=1e-15)
        assert note == (
            "the numeric columns, standardised: x, y (1 missing or infinite values count as the "
            "mean)"
        )

    @pytest.mark.parametrize("value", ["inf", ""])
    def test_a_column_without_a_finite_value_is_not_learnt_from(self, table, value):
        table.write_text(f"x,y\n{value},2\n{value},5\n")
        assert plain_features(Table(table))[1] == "the numeric columns, standardised: y"
        with pytest.raises(ValueError, match="with a finite value; x is not"):
            plain_features(Table(table), ["x"])

    @pytest.mark.parametrize("start", [0, 1])
    def test_what_numbers_the_rows_is_not_learnt_from(self, table, start):
        lines = [",key,row,n", *(f"{i},{9 - i % 2},{start + i},{i * i}" for i in range(4))]
        table.write_text("\n".join(lines))
        features, note = plain_features(Table(table, key="key"))
        assert features.shape == (4, 1)
        assert note == (
            "the numeric columns, standardised: n, beside what numbers the rows, Unnamed: 0, key, "
            "row"
        )
        assert plain_features(Table(table))[0].shape == (4, 2)
        chosen = ["n", "row", "key"]
        assert plain_features(Table(table, key="key"), chosen)[0].shape == (4, 3)
        table.write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
        with pytest.raises(ValueError, match=r"column to learn from, beside .*key, row\."):
            plain_features(Table(table, key="key"))

    def test_chosen_columns_go_before_a_text(self, table):
        features, _ = plain_features(Table(table, text="text"), ["n"])
        np.testing.assert_array_equal(features, [[-1.0], [0.0], [1.0]])

    def test_a_text_goes_before_numbers(self, table):
        features, note = plain_features(Table(table, text="text"))
        np.testing.assert_array_equal(features > 0, [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]])
        assert "tf-idf" in note

    def test_images_go_first(self, table, tmp_path):
        Image.new("L", (2, 2)).save(tmp_path / "i.png")
        table.write_text("text,photo,n\na,i.png,1\n")
        features, note = plain_features(Table(table, text="text", image="photo"))
        assert features.shape == (1, 256)
        assert note.startswith("pixels at 16 x 16, a poor fallback")

    def test_columns_that_are_not_numeric(self, table):
        with pytest.raises(ValueError, match=r"--columns must be numeric, .*; text is not"):
            plain_features(Table(table), ["n", "text"])
        with pytest.raises(ValueError, match="--columns must name columns of"):
            plain_features(Table(table), ["nope"])

    def test_nothing_to_learn_from(self, table):
        table.write_text("a,b\nx,y\n")
        with pytest.raises(ValueError, match=r"Name its text by --text COLUMN \(it has a, b\)"):
            plain_features(Table(table))

    def test_columns_of_images(self, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(ValueError, match="these items are images"):
            plain_features(ImageFolder(tmp_path), ["n"])


def read_pixels(*paths):
    features, unreadable = pixels(dict(enumerate(paths)))
    assert not unreadable
    return features


class TestPixels:
    def test_grey_images_have_one_channel(self, tmp_path):
        image = Image.new("L", (32, 32))
        image.paste(255, (0, 0, 16, 32))
        image.save(tmp_path / "a.png")
        grid = read_pixels(tmp_path / "a.png").reshape(16, 16)
        np.testing.assert_array_equal(grid, np.repeat([[1.0] * 8 + [0.0] * 8], 16, axis=0))

    def test_colours(self, tmp_path):
        Image.new("RGB", (20, 10), (255, 0, 51)).save(tmp_path / "a.png")
        Image.new("L", (20, 10), 255).save(tmp_path / "b.png")
        features = read_pixels(tmp_path / "a.png", tmp_path / "b.png").reshape(2, 256, 3)
        np.testing.assert_allclose(features[0], np.tile([1.0, 0.0, 0.2], (256, 1)), rtol=1e-6)
        np.testing.assert_array_equal(features[1], 1)

    def test_what_is_transparent_is_white(self, tmp_path):
        Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), np.ones((1, 256)))

    def test_turned_as_a_browser_turns_it(self, tmp_path):
        image = Image.new("L", (16, 16))
        image.paste(255, (0, 0, 16, 8))  # the upper half
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
        image.save(tmp_path / "a.png", exif=exif)
        grid = read_pixels(tmp_path / "a.png").reshape(16, 16)
        np.testing.assert_array_equal(grid, np.repeat([[0.0] * 8 + [1.0] * 8], 16, axis=0))

    @pytest.mark.parametrize(
        ("dtype", "white", "file_format"),
        [("uint16", 65535, "png"), ("int32", 65535, "tiff"), ("float32", 1, "tiff")],
    )
    def test_grey_images_of_more_than_8_bits(self, tmp_path, dtype, white, file_format):
        shades = np.repeat([[0.0] * 4 + [0.2] * 4 + [0.6] * 4 + [1.0] * 4], 16, axis=0)
        image = Image.fromarray((white * shades).round(3).astype(dtype))
        assert image.mode[0] in "IF"
        image.save(tmp_path / "a.png", file_format)  # pixels() looks at what is inside
        grid = read_pixels(tmp_path / "a.png").reshape(16, 16)
        np.testing.assert_allclose(grid, shades, rtol=1e-6)

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n and then nothing"])
    def test_what_is_no_image(self, tmp_path, content):
        (tmp_path / "a.png").write_bytes(content)
        Image.new("L", (2, 2)).save(tmp_path / "b.png")
        features, unreadable = pixels({3: tmp_path / "a.png", 5: tmp_path / "b.png"})
        assert features.shape == (1, 256)
        assert list(unreadable) == [3]
        assert "a.png' cannot be read as an image" in unreadable[3]
        with pytest.raises(ValueError, match=r"None of the images .*a\.png' cannot be read"):
            pixels({3: tmp_path / "a.png"})

    def test_without_pillow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ValueError, match=r"need Pillow: .* or give --features"):
            read_pixels(tmp_path / "a.png")


class TestWords:
    def test_few_words_are_features_themselves(self):
        assert words(["a b", "b ?"]).shape == (2, 3)

    def test_many_words(self):
        texts = [f"word{i} word{i + 1} the" for i in range(300)]
        features = words(texts)
        assert features.shape == (300, 100)
        np.testing.assert_array_equal(features, words(texts))

    def test_none(self):
        with pytest.raises(ValueError, match="The texts make no features"):
            words(["", " "])
