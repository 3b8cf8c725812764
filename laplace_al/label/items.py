"""What is labelled: a folder of images or the rows of a CSV file."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import pandas as pd

from laplace_al.typing import Path

# UTF-8, with or without the mark that Excel sets before it
_ENCODING = "utf-8-sig"
# of rows that have more fields than the header, or a quotation mark that nothing closes
_CURE = (
    "Quote texts that hold commas, tabs or quotation marks; remove the comma at the end of each "
    "row; or add the names of columns that have none."
)
IMAGE_TYPES = {
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}


class ImageFolder:
    """The images of a folder and of the folders in it, sorted by path; hidden ones are left out.

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
        relative = [path.relative_to(self.root) for path in self.root.rglob("*")]
        self.names = sorted(
            path.as_posix()
            for path in relative
            if path.suffix.lower() in IMAGE_TYPES
            and not any(part.startswith(".") for part in path.parts)
            and (self.root / path).is_file()
        )
        if not self.names:
            raise ValueError(
                f"The folder {str(root)!r} holds no image, a file that ends in one of "
                f"{', '.join(IMAGE_TYPES)}."
            )
        unknown = next((name for name in self.names if not is_utf8(name)), None)
        if unknown is not None:
            raise ValueError(
                f"The folder {str(root)!r} holds {unknown!r}, whose name is not UTF-8, the only "
                "encoding that a journal keeps names in; rename it."
            )
        self.paths = [self.root / name for name in self.names]
        self.contents = self.names

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
        """
        path = self.paths[position]
        return IMAGE_TYPES[path.suffix.lower()], path.read_bytes()


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

    Raises
    ------
    ValueError
        If the file has another encoding, no row, a row with more fields than the header, lacks a
        column, or an image is missing.

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
        self.shown, self.parsed = _read(self.path, encoding)
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
        path = self.paths[position]
        return IMAGE_TYPES[path.suffix.lower()], path.read_bytes()

    def _image_paths(self, column: str) -> list[pathlib.Path]:
        paths = [self.path.parent / name for name in self.shown[column]]
        for row, path in enumerate(paths):
            if path.suffix.lower() not in IMAGE_TYPES or not path.is_file():
                raise ValueError(
                    f"--image {column}: {self.shown[column].iloc[row]!r} in row {row} is not an "
                    f"image beside {str(self.path)!r}, a file that ends in one of "
                    f"{', '.join(IMAGE_TYPES)}."
                )
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


def _read(path: pathlib.Path, encoding: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a file as they are written and as pandas reads them."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    content = _decoded(path, encoding)

    def rows(**options: Any) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(content, newline=""), sep=separator, **options)

    try:
        shown, parsed = rows(dtype=str, keep_default_na=False), rows()
        check_fields(shown)
    except pd.errors.ParserError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {str(error).strip()}. {_CURE}") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{str(path)!r} is empty: it has no header.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    return shown, parsed


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
