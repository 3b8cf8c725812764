import pytest

from laplace_al.label.items import Table, open_items


@pytest.fixture
def table(tmp_path):
    return tmp_path / "t.csv"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators(tmp_path, separator):
    path = tmp_path / "t.csv"
    lines = ["id{0}text", '1{0}"good{0} really, good"', "2{0}bad", '3{0}"one\ntwo"']
    path.write_text("\n".join(lines).format(separator))
    items = Table(path, text="text", key="id")
    assert items.names == ["1", "2", "3"]
    assert items.describe(0)["text"] == f"good{separator} really, good"
    assert items.parsed.id.tolist() == [1, 2, 3]
    assert bool(items.notes) == (separator != ",")


def test_commas_in_texts_between_semicolons(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id;text, or so;x\n1;good, really good;1,5\n2;bad, really bad;2,5\n")
    items = Table(path)
    assert list(items.shown) == ["id", "text, or so", "x"]
    assert items.notes == ["Columns separated by semicolons."]
    assert items.parsed.x.tolist() == [1.5, 2.5]
    assert items.shown.x.tolist() == ["1,5", "2,5"]


@pytest.mark.parametrize("row", ["2;3,5", "2", pytest.param("2;b;" + 150_000 * "long", id="long")])
def test_a_row_that_is_short_or_very_long(tmp_path, row):
    (tmp_path / "t.csv").write_text(f"id;x;text\n1;2,5;hey, you\n{row}\n3;4,5;ho\n")
    assert list(Table(tmp_path / "t.csv").shown) == ["id", "x", "text"]


def test_a_row_that_is_too_long_between_semicolons(tmp_path):
    (tmp_path / "t.csv").write_text("id;text\n1;a;b\n2;c\n")
    with pytest.raises(ValueError, match="rows may not have more fields than the header"):
        Table(tmp_path / "t.csv")


@pytest.mark.parametrize("content", ["text\nhello; you\nhi\n", "a,b;c\n1,2\n3,4\n", "a\n1\n"])
def test_what_separates_nothing(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    assert Table(tmp_path / "t.csv").notes == []


def test_tabs(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1,5\t2\n")
    assert Table(tmp_path / "t.tsv").describe(0)["columns"] == [["a", "1,5"], ["b", "2"]]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig"])
def test_encodings(tmp_path, encoding):
    content = 'größe,text\r\n1,"hôtel,\r\nzwei"\r\n'
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode(encoding))
    table = open_items(path, text="text", encoding=encoding)
    assert table.names == ["hôtel,\r\nzwei"]
    assert table.describe(0)["columns"] == [["größe", "1"]]
    if encoding.startswith("utf-8"):
        assert open_items(path).contents == table.contents


def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("text,n\nbar,1\ncafé,2\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"t\.csv' is not in UTF-8: byte 0xe9 in line 3\. .* by --encoding"
    ):
        open_items(path)
    with pytest.raises(ValueError, match="is not in ascii: byte 0xe9 in line 3"):
        open_items(path, encoding="ascii")
    with pytest.raises(ValueError, match=r"--encoding must be .*; got 'latin77'"):
        open_items(path, encoding="latin77")


def test_an_empty_file(tmp_path):
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(ValueError, match=r"t\.csv' is empty: it has no header\."):
        open_items(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "header", "row"),
    [
        ("subject\nhello, you\nhi, there\n", 1, 2),
        ("subject,length\nWin,12,\nLunch,6,\n", 2, 3),
        ("n,subject\n0,hello, you\n1,hi, there\n", 2, 3),
        ("subject\nhello, you, there\n", 1, 3),
    ],
)
def test_rows_with_more_fields_than_the_header(table, content, header, row):
    table.write_text(content)
    with pytest.raises(
        ValueError,
        match=rf"t\.csv' cannot be read: its first row has {row} fields, its header {header}; ",
    ):
        Table(table)


@pytest.mark.parametrize("content", ["a\nhello\nhi, you\n", 'a\nhello\n"hi\n'])
def test_rows_that_cannot_be_read(table, content):
    table.write_text(content)
    with pytest.raises(ValueError, match=r"t\.csv' cannot be read: .*[^\n]\. Quote texts"):
        Table(table)
