"""The command ``python -m laplace_al.label``."""

import argparse
import contextlib
import pathlib
import shlex
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from numpy.typing import NDArray

from laplace_al import strategies
from laplace_al.label.csv_files import csv_text
from laplace_al.label.embedding import cached
from laplace_al.label.features import given_features, plain_features
from laplace_al.label.images import FORMATS
from laplace_al.label.items import Items, leave_out_unreadable, open_items
from laplace_al.label.learner import pool_of
from laplace_al.label.results import fit_classifier, labels_csv, predictions, read_labels
from laplace_al.label.server import LabelServer, check_port
from laplace_al.label.session import Session
from laplace_al.label.texts import check_annotator, check_label, printable
from laplace_al.loop.journal import Journal
from laplace_al.storage.archive import replace_file
from laplace_al.storage.locks import lock_path

STRATEGIES = {
    "badge": strategies.BADGE,
    "bald": strategies.BALD,
    "core_set": strategies.CoreSet,
    "entropy": strategies.EntropySampling,
    "least_confident": strategies.LeastConfidentSampling,
    "margin": strategies.MarginSampling,
    "max_herding": strategies.MaxHerding,
    "prob_cover": strategies.ProbCover,
    "random": strategies.RandomSampling,
    "typi_clust": strategies.TypiClust,
    "uncertainty_herding": strategies.UncertaintyHerding,
    "variance": strategies.VarianceSampling,
}
_PROGRAM = "python -m laplace_al.label"
_DESCRIPTION = """\
Label images or texts on a local page that asks for the most useful label next.

Each label is learnt at once, and is written to the journal, an SQLite file, before the page shows
the next item. Stop with Ctrl-C at any time; the same command continues where you stopped. Only this
machine can open the page, at an address that nobody can guess."""
_EPILOG = """\
features: the numbers from which the model learns. They are read from --features, computed by
--embed, or else plain features, which the page names: the pixels of an image at 16 x 16, the words
of --text (tf-idf), or the numeric columns of a CSV file, standardised. Labels belong to the items:
you may stop and continue with the same journal and better features.

results: --export, --predict and --save write files and exit. They read the journal, also while the
page runs. The model that they use is fitted on all labels. In Python:
  LaplaceUpdateClassifier.load("model.safetensors").predict(features_of_new_items)
  laplace_al.label.open_learner("mails.csv", "labels.sqlite", numpy.load("mails.npy"))

examples:
  python -m laplace_al.label photos/ --journal labels.sqlite --classes cat dog
  python -m laplace_al.label mails.csv --text subject --journal labels.sqlite
  python -m laplace_al.label mails.csv --text subject --embed my_model:encode --cache mails.npy \\
      --journal labels.sqlite
  python -m laplace_al.label photos/ --journal labels.sqlite --export labels.csv
  python -m laplace_al.label mails.csv --text subject --embed my_model:encode --cache mails.npy \\
      --journal labels.sqlite --predict all.csv --save model.safetensors"""

# Options that write a file instead of opening the page.
_OUTPUTS = ("export", "predict", "save")
_N_NAMED = 20  # items that are left out, by name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print what is wrong, without the list of all options, and exit."""
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "items",
        metavar="IMAGES_OR_CSV",
        help="folder of images, subfolders included (of the endings "
        f"{' '.join(ending[1:] for ending in FORMATS)}), or a CSV or TSV file whose first line "
        "names the columns, separated by commas, semicolons, tabs or vertical bars",
    )
    add("--journal", required=True, metavar="FILE", help="SQLite file of the labels; made if new")
    add("--classes", nargs="+", default=[], metavar="LABEL", help="labels; the page can add more")
    add("--text", metavar="COLUMN", help="CSV column of the text, shown large")
    add("--image", metavar="COLUMN", help="CSV column of image paths, relative to the CSV file")
    add(
        "--id",
        metavar="COLUMN",
        help="CSV column that names each row in the exported labels; not used as a feature unless "
        "listed in --columns",
    )
    add("--encoding", metavar="NAME", help="of the CSV file: latin-1, utf-16 ... (default: utf-8)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--features",
        metavar="FILE",
        help=".npy, .npz or .csv with one row of numbers for each item, in the order of the items "
        "(images: sorted by path)",
    )
    source.add_argument(
        "--embed",
        metavar="MODULE:CALLABLE",
        help="function that is called with a list of up to 64 items at a time and returns an array "
        "with a row for each; the items are paths of images (pathlib.Path) if there are any, else "
        "texts (--text), else dicts of the columns",
    )
    source.add_argument(
        "--columns", nargs="+", metavar="COLUMN", help="numeric CSV columns to use as features"
    )
    add("--cache", metavar="FILE.npy", help="keeps the result of --embed, of these items")
    add(
        "--strategy",
        choices=sorted(STRATEGIES),
        default="uncertainty_herding",
        help="chooses the next item (default: uncertainty_herding); most others need a model and "
        "choose at random until two labels are known",
    )
    add("--annotator", metavar="NAME", help="name of the annotator, stored with each label")
    add(
        "--random-state",
        type=_integer(0, 2**32 - 1),
        default=0,
        metavar="SEED",
        help="seed of the strategy (default: 0)",
    )
    add(
        "--port",
        type=_integer(0, 65535),
        default=0,
        help="port of the page (default: any free port)",
    )
    add("--no-browser", action="store_true", help="do not open the page, only print its address")
    add(
        "--export",
        metavar="FILE.csv",
        help="write the labels of the journal (position, name, label, time, annotator) and exit",
    )
    add(
        "--predict",
        metavar="FILE.csv",
        help="write a label for every item (position, name, label, source, probability) and exit; "
        "the source is 'given' or 'predicted', the probability what the model says of the label",
    )
    add(
        "--save",
        metavar="FILE.safetensors",
        help="write the model and exit; LaplaceUpdateClassifier.load opens it, for features that "
        "are made as those of the items",
    )
    return parser


def _integer(low: int, high: int) -> Callable[[str], int]:
    """Return a type for argparse: integers in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"must be an integer from {low} to {high}; got {text!r}."
            )
        return number

    return parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, or those of the process.

    It exits with code 2 if an argument is not what it may be, and with 130 if Ctrl-C comes before
    the page or again before the end.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.cache is not None and options.embed is None:
        parser.error("--cache stores the result of --embed. Give --embed, or leave --cache out.")
    try:
        items = open_items(
            options.items,
            text=options.text,
            image=options.image,
            key=options.id,
            encoding=options.encoding,
        )
        for note in items.notes:
            print(printable(note))
        leave_out_unreadable(items)
        check_files(options)
        if any(getattr(options, output) is not None for output in _OUTPUTS):
            check_outputs(items, options)
            write_outputs(items, options)
            return
        check_session(items, options)
        features, note = features_for(items, options)
        session = Session(
            items,
            features,
            options.journal,
            strategy=STRATEGIES[options.strategy](),
            classes=options.classes,
            annotator=options.annotator,
            note=note,
            random_state=options.random_state,
        )
        server = LabelServer(session, options.port)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(message_of(error, options.journal))
    except KeyboardInterrupt:
        sys.exit(130)  # as shells report it
    try:
        serve(server, open_browser=not options.no_browser)
        print_summary(session, arguments)
    except KeyboardInterrupt:  # a second one; the labels are on disk
        sys.exit(130)


def print_summary(session: Session, arguments: Sequence[str]) -> None:
    """Close a session; print how many labels there are, how to go on, how good the model was."""
    accuracy = session.accuracy()
    n_labels = session.close()
    print(f"\n{_n(n_labels, 'labels')} in {printable(session.journal)}. To go on:")
    print(f"  {_PROGRAM} {printable(shlex.join(arguments))}", flush=True)
    if accuracy is not None:
        print(
            f"Of the last {accuracy.n_guesses} items that were drawn at random, the model had "
            f"guessed {accuracy.share:.0%} right (95% interval: {accuracy.low:.0%} to "
            f"{accuracy.high:.0%}).",
            flush=True,
        )


def check_files(options: argparse.Namespace) -> None:
    """Refuse to write to a folder; an empty path names the current one."""
    for option in ("journal", *_OUTPUTS):
        path = getattr(options, option)
        if path is not None and pathlib.Path(path).is_dir():
            raise ValueError(f"--{option} must name a file, not a folder; got {path!r}.")


def check_session(items: Items, options: argparse.Namespace) -> None:
    """Refuse what a session would refuse: before the features, which may take hours."""
    check_port(options.port)
    for label in options.classes:
        check_label(label)
    check_annotator(options.annotator)
    journal = pathlib.Path(options.journal)
    # a new one is not made yet: it would be left behind if there are no features
    if journal.exists() or not journal.parent.is_dir():
        Journal(journal, pool_of(items)).close()


def features_for(items: Items, options: argparse.Namespace) -> tuple[NDArray[Any], str]:
    """Return the features (n_items, n_features) that are asked for, and what they are."""
    if options.features is not None:
        return given_features(options.features, len(items)), options.features
    if options.embed is not None:
        features = cached(options.cache, items, options.embed)
        return features, options.embed
    return plain_features(items, options.columns)


def check_outputs(items: Items, options: argparse.Namespace) -> None:
    """Refuse to write over a file that is read or that another option names."""
    others = {
        "IMAGES_OR_CSV": options.items,
        "--journal": options.journal,
        "--journal, its lock": lock_path(pathlib.Path(options.journal)),
        "--features": options.features,
        "--cache": options.cache,
    }
    for output in _OUTPUTS:
        given = getattr(options, output)
        if given is None:
            continue
        path = pathlib.Path(given)
        if not path.parent.is_dir():
            raise ValueError(
                f"--{output} {given!r}: the folder {str(path.parent)!r} does not exist; make it "
                "first."
            )
        images = {f"image {str(image)!r}": image for image in items.paths or []}
        for name, other in (others | images).items():
            if other is not None and _is_same_file(path, pathlib.Path(other)):
                raise ValueError(
                    f"--{output} {given!r} is the file of {name}, which it would overwrite; name "
                    "another file."
                )
        others[f"--{output}"] = given


def _is_same_file(path: pathlib.Path, other: pathlib.Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)  # even where upper and lower case name the same file
    return path.resolve() == other.resolve()


def write_outputs(items: Items, options: argparse.Namespace) -> None:
    """Write the files that are asked for, from the labels in the journal."""
    labels = read_labels(items, options.journal)
    if options.export is not None:
        replace_file(options.export, labels_csv(items, labels).encode())
        print(f"{_n(len(labels), 'labels')} written to {printable(options.export)}.")
    if options.predict is None and options.save is None:
        return
    features, _ = features_for(items, options)
    print_left_out(items)
    classifier = fit_classifier(features, labels)
    if options.predict is not None:
        table = predictions(items, features, labels, classifier)
        replace_file(options.predict, csv_text(table).encode())
        given = _n(len(labels), "labels")
        print(
            f"{_n(len(table), items.noun)} with a label written to {printable(options.predict)}: "
            f"{given} given, {len(table) - len(labels):,} predicted."
        )
    if options.save is not None:
        classifier.save(options.save)
        print(f"The model of {_n(len(labels), 'labels')} saved to {printable(options.save)}.")
        if options.features is None and options.embed is None:
            print(
                "It is of plain features, which are made of these items together: for others, give "
                "--embed or --features."
            )


def print_left_out(items: Items) -> None:
    """Print the names of the items that are not asked for."""
    left_out = sorted(items.unreadable.items())
    for position, why in left_out[:_N_NAMED]:
        print(printable(f"Left out: {items.names[position]!r}: {why}"))
    if len(left_out) > _N_NAMED:
        print(f"Left out: {_n(len(left_out) - _N_NAMED, items.noun)} more.")


def message_of(error: Exception, journal: str) -> str:
    """Return the message of an error, in words of the command."""
    message = str(error)
    if "is of another pool" in message:
        return (
            f"--journal {journal!r} holds labels of other items: some were added, removed, renamed "
            "or changed since, or another folder or file was labelled. Bring back the items as "
            "they were, or name another journal."
        )
    if isinstance(error, RuntimeError) and "in use" in message:
        return (
            f"--journal {journal!r} is in use, by the page in another terminal or by an "
            "ActiveLearner. Stop that first, or name another journal; --export, --predict and "
            "--save work meanwhile."
        )
    return message.replace("journal=", "--journal ").replace("annotator must", "--annotator must")


def serve(server: LabelServer, *, open_browser: bool) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    counts = server.session.state()["counts"]
    items = server.session.items
    print_left_out(items)
    print(f"{_n(counts['total'], items.noun)}, {counts['labelled']:,} of them labelled.")
    print(f"Features: {printable(server.session.note)}.")
    print(f"The page: {server.url}")
    print("Ctrl-C stops; the labels are kept.", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored where a shell says so
        signal.signal(number, signal.default_int_handler)
    try:
        with redirecting_file(server.url) if open_browser else contextlib.nullcontext() as path:
            if path is not None:  # in a thread, for a browser in the terminal would keep us from it
                threading.Thread(target=webbrowser.open, args=[path.as_uri()], daemon=True).start()
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


@contextlib.contextmanager
def redirecting_file(url: str) -> Iterator[pathlib.Path]:
    """Make a file that leads to an address, for a browser whose command line others can read.

    Only its owner can read it. It is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="laplace_al") as folder:  # of mode 0700
        path = pathlib.Path(folder, "page.html")
        path.touch(mode=0o600)
        path.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">')
        yield path


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun.removesuffix('s') if count == 1 else noun}"


if __name__ == "__main__":
    main()
