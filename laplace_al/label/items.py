"""What is labelled: a folder of images or the rows of a CSV file."""

import contextlib
import csv
import io
import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pandas as pd

from laplace_al._common.typing import Path
from laplace_al.label.images import FORMATS, for_browser, unreadable

# UTF-8, with or without the mark that Excel sets before it
_ENCODING = "utf-8-sig"
# of rows that have more fields than the header, or a quotation mark that nothing closes
_CURE = (
    "Quote texts that hold commas, tabs or quotation marks; remove the comma at the end of each "
    "row; or add the names of columns that have none."
)
# What separates the fields of a CSV file: spreadsheets in many countries write semicolons.
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_N_LINES = 100  # from which a separator is told


class ImageFolder:
    """The images of a folder and of the folders in it, sorted by path.

    Linked files and folders are among them, what is hidden is not.

    Parameters
    ----------
    root : str or path-like

    Attributes
    ----------
    paths : list of Path
    names : list of str
        The paths relative to ``root``.
    contents : list of str
        What tells an item from others, whatever is computed from it: here its name.
    unreadable : dict from position to str
        What is wrong with items that are not asked for, see :func:`leave_out_unreadable`.
    notes : list of str
        What is in the folder and not among the items.

    Raises
    ------
    ValueError
        If there is no image, or a name is not UTF-8.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.jpg", "notes.txt"):
    ...         pathlib.Path(folder, name).touch()
    ...     ImageFolder(folder).names
    ['a.jpg', 'b.png']
    """

    noun = "images"

    def __init__(self, root: Path) -> None:
        self.root = pathlib.Path(root)
        self.notes: list[str] = []
        files = list(self._walked(self.root, ()))
        taken = [path for path in files if path.suffix.lower() in FORMATS]
        self.names = sorted(path.relative_to(self.root).as_posix() for path in taken)
        others = Counter(
            path.suffix or "no ending" for path in files if path.suffix.lower() not in FORMATS
        )
        if others:
            counts = ", ".join(f"{n} {ending}" for ending, n in sorted(others.items()))
            self.notes.append(f"Files that are not taken for images, by their endings: {counts}.")
        if not self.names:
            raise ValueError(
                f"The folder {str(root)!r} holds no image, a file that ends in one of "
                f"{', '.join(FORMATS)}. {' '.join(self.notes)}".rstrip()
            )
        unknown = next((name for name in self.names if not is_utf8(name)), None)
        if unknown is not None:
            raise ValueError(
                f"The folder {str(root)!r} holds {unknown!r}, whose name is not UTF-8, the only "
                "encoding that a journal keeps names in; rename it."
            )
        self.paths = [self.root / name for name in self.names]
        self.contents = self.names
        self.unreadable: dict[int, str] = {}

    def _walked(
        self, folder: pathlib.Path, above: tuple[tuple[int, int], ...]
    ) -> Iterator[pathlib.Path]:
        """Files of a folder and those in it; links that lead back to one above are noted."""
        try:
            status = folder.stat()
            paths = sorted(folder.iterdir())
        except OSError as error:
            self.notes.append(f"A folder that cannot be read: {str(folder)!r}: {error.strerror}.")
            return
        above = (*above, (status.st_dev, status.st_ino))
        for path in paths:
            if path.name.startswith("."):
                continue
            # isdir and isfile are False, where those of pathlib raise, if access is denied
            if os.path.isdir(path):
                status = path.stat()
                if (status.st_dev, status.st_ino) in above:
                    self.notes.append(f"A link that leads back to where it is: {str(path)!r}.")
                else:
                    yield from self._walked(path, above)
            elif os.path.isfile(path):
                yield path
            else:
                self.notes.append(f"A link to nothing, or no file: {str(path)!r}.")

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, position: int) -> dict[str, Any]:
        """What is shown of an item, as JSON has it.

        Parameters
        ----------
        position : int

        Returns
        -------
        dict
            ``name``; ``has_image``; ``text``, shown big, or None; ``columns``, pairs of name
            and value.
        """
        return {"name": self.names[position], "has_image": True, "text": None, "columns": []}

    def image(self, position: int) -> tuple[str, bytes]:
        """Media type and bytes of an image.

        Parameters
        ----------
        position : int

        Returns
        -------
        media_type : str
        content : bytes

        Raises
        ------
        OSError
            If the file has gone.
        UnreadableImageError
            If it cannot be converted to what a browser shows.
        """
        return for_browser(self.paths[position])


class Table:
    r"""The rows of a CSV file, or of a TSV file.

    Parameters
    ----------
    path : str or path-like
    text : str, default=None
        Column that is shown big.
    image : str, default=None
        Column of paths to images, relative to the file.
    key : str, default=None
        Column that names the rows. None: ``text``, else ``image``, else the position of the row.
    encoding : str, default=None
        Of the file, as Python names it. None: UTF-8.

    Attributes
    ----------
    shown : DataFrame of str
        The file as it is written.
    parsed : DataFrame
        The file as pandas reads it.
    names : list of str
    contents : list of str
        What tells an item from others, whatever is computed from it: the whole row.
    paths : list of Path or None
        Of the images, if there are any.
    unreadable : dict from position to str
        What is wrong with items that are not asked for, see :func:`leave_out_unreadable`.
    notes : list of str
        How the file was read, if that had to be found out.

    Raises
    ------
    ValueError
        If the file has another encoding, no row, a row with more fields than the header, lacks a
        column, or has no image.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "mails.csv")
    ...     _ = path.write_text("subject,length\nWin a prize!,12\nLunch?,6\n")
    ...     table = Table(path, text="subject")
    >>> table.describe(1)["text"], table.describe(1)["columns"]
    ('Lunch?', [['length', '6']])
    """

    noun = "rows"

    def __init__(
        self,
        path: Path,
        *,
        text: str | None = None,
        image: str | None = None,
        key: str | None = None,
        encoding: str | None = None,
    ) -> None:
        self.path = pathlib.Path(path)
        self.unreadable: dict[int, str] = {}
        self.notes: list[str] = []
        self.shown, self.parsed, separator = _read(self.path, encoding)
        if separator != "," and self.path.suffix.lower() != ".tsv":
            self.notes.append(f"Columns separated by {_SEPARATORS[separator]}.")
        if not len(self.shown):
            raise ValueError(f"{str(path)!r} has no row.")
        for option, column in {"--text": text, "--image": image, "--id": key}.items():
            self.check_columns(option, [] if column is None else [column])
        self.text, self.image_column, self.key = text, image, key
        named = next((column for column in (key, text, image) if column is not None), None)
        positions = [str(position) for position in range(len(self.shown))]
        self.names = positions if named is None else self.shown[named].tolist()
        self._rows = self.shown.to_dict("records")
        self.contents = ["\t".join(row.values()) for row in self._rows]
        self.paths = None if image is None else self._image_paths(image)

    def check_columns(self, option: str, columns: Sequence[str]) -> None:
        """Refuse columns that the file lacks.

        Parameters
        ----------
        option : str
            That names them.
        columns : list of str

        Raises
        ------
        ValueError
            If one is missing.
        """
        missing = [column for column in columns if column not in self.shown.columns]
        if missing:
            raise ValueError(
                f"{option} must name columns of {str(self.path)!r}; got {', '.join(missing)}. It "
                f"has {', '.join(self.shown.columns)}."
            )

    def __len__(self) -> int:
        return len(self.shown)

    def describe(self, position: int) -> dict[str, Any]:
        """What is shown of an item, see :meth:`ImageFolder.describe`.

        Parameters
        ----------
        position : int

        Returns
        -------
        dict
        """
        row = self._rows[position]
        return {
            "name": self.names[position],
            "has_image": self.paths is not None,
            "text": None if self.text is None else row[self.text],
            "columns": [
                [column, value]
                for column, value in row.items()
                if column not in (self.text, self.image_column)
            ],
        }

    def image(self, position: int) -> tuple[str, bytes]:
        """Media type and bytes of an image, see :meth:`ImageFolder.image`.

        Parameters
        ----------
        position : int

        Returns
        -------
        media_type : str
        content : bytes

        Raises
        ------
        LookupError
            If the rows have no images.
        OSError
            If the file has gone.
        """
        if self.paths is None:
            raise LookupError("The rows have no images; --image names a column of them.")
        return for_browser(self.paths[position])

    def _image_paths(self, column: str) -> list[pathlib.Path]:
        paths = [self.path.parent / name for name in self.shown[column]]
        for row, path in enumerate(paths):
            if path.suffix.lower() not in FORMATS or not os.path.isfile(path):
                self.unreadable[row] = (
                    f"{self.shown[column].iloc[row]!r} in row {row} is not an image beside "
                    f"{str(self.path)!r}, a file that ends in one of {', '.join(FORMATS)}."
                )
        if len(self.unreadable) == len(paths):
            raise ValueError(f"--image {column}: {self.unreadable[0]}")
        return paths


def is_utf8(text: str) -> bool:
    r"""Whether UTF-8, in which journals and exports are written, has a form for a text.

    Parameters
    ----------
    text : str
        Python keeps bytes that are not UTF-8, of file names and arguments, as lone surrogates.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_utf8("é.png"), is_utf8("\udcff.png")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_fields(rows: pd.DataFrame) -> None:
    r"""Refuse rows with more fields than the header: pandas takes their first ones for an index.

    Parameters
    ----------
    rows : DataFrame of str
        Read as text, for an index of whole numbers may look like none.

    Raises
    ------
    ValueError
        If there is such an index. It does not name the file.

    Examples
    --------
    >>> check_fields(pd.read_csv(io.StringIO("a,b\n1,2\n"), dtype=str))
    """
    if not isinstance(rows.index, pd.RangeIndex):
        n_names = len(rows.columns)
        raise ValueError(
            f"its first row has {n_names + rows.index.nlevels} fields, its header {n_names}; rows "
            f"may not have more fields than the header. {_CURE}"
        )


def _read(path: pathlib.Path, encoding: str | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The rows of a file as they are written and as pandas reads them, and their separator."""
    content = _decoded(path, encoding)
    separator = "\t" if path.suffix.lower() == ".tsv" else separator_of(content)

    try:
        file = io.StringIO(content, newline="")
        shown = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
        check_fields(shown)
        parsed = read_numbers(content, separator)
    except pd.errors.ParserError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {str(error).strip()}. {_CURE}") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{str(path)!r} is empty: it has no header.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    return shown, parsed, separator


def read_numbers(content: str, separator: str) -> pd.DataFrame:
    r"""The rows of a CSV file, parsed; between semicolons, numbers may have decimal commas.

    Parameters
    ----------
    content : str
    separator : str

    Returns
    -------
    DataFrame

    Examples
    --------
    >>> read_numbers("a;b\n1,5;2.5\n", ";").to_dict("records")
    [{'a': 1.5, 'b': 2.5}]
    """
    parsed = pd.read_csv(io.StringIO(content, newline=""), sep=separator)
    if separator != ";":
        return parsed
    commas = pd.read_csv(io.StringIO(content, newline=""), sep=separator, decimal=",")
    texts = parsed.select_dtypes(exclude="number").columns
    numbers = commas.select_dtypes("number")
    return parsed.assign(**numbers[numbers.columns.intersection(texts)])


def separator_of(content: str) -> str:
    r"""What separates the fields of a CSV file.

    Parameters
    ----------
    content : str

    Returns
    -------
    str
        Of comma, semicolon, tab and vertical bar, where they divide the header, the one that
        divides most of the first lines into as many fields as the header, and into most; a comma
        if none divides it.

    Examples
    --------
    >>> separator_of("id;text\n1;good, really good\n2;bad, really bad\n")
    ';'
    """
    fits = {}
    for separator in _SEPARATORS:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        lengths: list[int] = []
        with contextlib.suppress(csv.Error):  # of a text that is very long
            lengths.extend(len(row) for row in itertools.islice(filter(None, rows), _N_LINES))
        n_fields = max(lengths[:1], default=1)
        fits[separator] = (lengths.count(n_fields), n_fields) if n_fields > 1 else (0, 1)
    return max(fits, key=fits.__getitem__)


def _decoded(path: pathlib.Path, encoding: str | None) -> str:
    """The text of a file."""
    try:
        return path.read_bytes().decode(_ENCODING if encoding is None else encoding)
    except LookupError as error:
        raise ValueError(
            f"--encoding must be one that Python knows, such as latin-1; got {encoding!r}."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{str(path)!r} is not in {encoding or 'UTF-8'}: byte "
            f"0x{error.object[error.start]:02x} in line {line}. Give its encoding by --encoding, "
            "such as latin-1 or utf-16, or save it as UTF-8."
        ) from error


Items: TypeAlias = ImageFolder | Table


def leave_out_unreadable(items: Items, *, whole: bool = False) -> None:
    """Ask for no item whose image cannot be read; it keeps its position.

    Parameters
    ----------
    items : ImageFolder or Table
        Its ``unreadable`` is added to.
    whole : bool, default=False
        Whether to decode the images, too; else only their heads are read.

    Raises
    ------
    ValueError
        If no image is left.
    """
    if items.paths is None:
        return
    paths = {i: path for i, path in enumerate(items.paths) if i not in items.unreadable}
    items.unreadable |= unreadable(paths, whole=whole)
    if len(items.unreadable) == len(items):
        raise ValueError(f"None of the images can be read. The first: {items.unreadable[0]}")


def open_items(
    path: Path,
    *,
    text: str | None = None,
    image: str | None = None,
    key: str | None = None,
    encoding: str | None = None,
) -> Items:
    """Items of a folder or of a CSV file.

    Parameters
    ----------
    path : str or path-like
    text, image, key, encoding : str, default=None
        See :class:`Table`.

    Returns
    -------
    ImageFolder or Table

    Raises
    ------
    ValueError
        If it is neither, or a folder is given with options of a CSV file.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        options = {"--text": text, "--image": image, "--id": key, "--encoding": encoding}
        given = [option for option, value in options.items() if value is not None]
        if given:
            raise ValueError(
                f"{', '.join(given)}: only for a CSV file; {str(path)!r} is a folder of images."
            )
        return ImageFolder(path)
    if path.suffix.lower() not in (".csv", ".tsv") or not path.is_file():
        raise ValueError(
            f"{str(path)!r} must be a folder of images, or a file that ends in .csv or .tsv."
        )
    return Table(path, text=text, image=image, key=key, encoding=encoding)
