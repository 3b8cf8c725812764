"""The page over HTTP, for this machine alone. Knows no learner: a session does what it asks."""

import contextlib
import hmac
import http.server
import importlib.resources
import json
import re
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

from laplace_al.label.images import UnreadableImageError
from laplace_al.label.session import AlreadyLabelledError, Session

HOST = "127.0.0.1"
_MAX_BODY = 10_000  # bytes
_PATIENCE = 60  # seconds, for the next request of a connection
# Of connections that have not shown the token: any program of this machine may open them.
_PATIENCE_WITH_STRANGERS = 5
_MAX_STRANGERS = 32
_PAUSE = 0.05  # seconds, until files may have been closed
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Answer(NamedTuple):
    """The answer to a request; ``headers`` come besides those of every answer, or replace them."""

    media_type: str
    content: bytes
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = {}


class RefusedError(Exception):
    """A request is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class LabelServer(http.server.ThreadingHTTPServer):
    """A server of a session for whoever knows its ``url``, on this machine only.

    Every path begins with a token that cannot be guessed. Requests that name another host, as those
    of a page that has its own name resolved to this machine do, are refused. Of connections that
    have not shown the token, the oldest is closed when there are more than 32. Port 0 is any that
    is free; ``OSError`` is raised if the port is in use or not allowed.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        self._strangers: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        self.token = secrets.token_urlsafe(32)
        with _port_named(port):
            super().__init__((HOST, port), _Handler)
        self.url = f"http://{HOST}:{self.server_port}/{self.token}/"

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept the next connection; if no file can be opened, close others first."""
        try:
            return super().get_request()
        except OSError:
            self._close_strangers(0)
            time.sleep(_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        self._close_strangers(_MAX_STRANGERS - 1)
        with self._lock:
            self._strangers[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self.trust(request)
        super().shutdown_request(request)

    def trust(self, connection: socket.socket) -> None:
        """Count a connection, which has shown the token, no longer among strangers."""
        with self._lock:
            self._strangers.pop(connection, None)

    def _close_strangers(self, n_left: int) -> None:
        with self._lock:
            oldest = list(self._strangers)[: max(0, len(self._strangers) - n_left)]
            for connection in oldest:
                del self._strangers[connection]
                with contextlib.suppress(OSError):  # it has gone
                    connection.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error, unless it is that a browser has hung up."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def check_port(port: int) -> None:
    """Refuse a port that a server could not use now."""
    with _port_named(port):
        http.server.HTTPServer((HOST, port), http.server.BaseHTTPRequestHandler).server_close()


@contextlib.contextmanager
def _port_named(port: int) -> Iterator[None]:
    """Name the port, and the cure, in an error of the system."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"--port {port} cannot be used: {error.strerror}. Give another, or leave --port out: "
            "any that is free is taken."
        ) from error


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LabelServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "laplace_al", ""
    timeout = _PATIENCE_WITH_STRANGERS
    # head and body leave in one packet, or each answer waits for an acknowledgement
    wbufsize = -1
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # whatever the method is: without the token it is refused
            return self._respond
        raise AttributeError(name)

    def _respond(self) -> None:
        try:
            answer = self._answer()
        except RefusedError as error:
            answer = _error(error.status, error, error.headers)
        except AlreadyLabelledError as error:
            answer = _error(HTTPStatus.CONFLICT, error)
        except LookupError as error:
            answer = _error(HTTPStatus.NOT_FOUND, error)
        except ValueError as error:
            answer = _error(HTTPStatus.BAD_REQUEST, error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            traceback.print_exc()
            answer = _error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        self._send(answer)

    def _answer(self) -> Answer:
        path = self._checked_path()
        for pattern, methods in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                arguments = [int(digits) for digits in match.groups()]
                arguments += [self._body()] if self.command == "POST" else []
                return methods[self.command](self.server.session, *arguments)
            if match:
                raise RefusedError(
                    HTTPStatus.METHOD_NOT_ALLOWED,
                    f"Method {self.command} is not for {path!r}.",
                    Allow=", ".join(methods),
                )
        raise RefusedError(HTTPStatus.NOT_FOUND, "There is nothing at this address.")

    def _checked_path(self) -> str:
        """Return what comes after the token; refuse a request without it."""
        token, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        is_known = hmac.compare_digest(token.encode(), self.server.token.encode())
        is_local = re.fullmatch(r"(127\.0\.0\.1|localhost)(:\d+)?", host)
        if not (is_known and is_local and origin in (None, f"http://{host}")):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "Open the address that the terminal shows: it changes with every start.",
            )
        self.server.trust(self.connection)
        self.connection.settimeout(_PATIENCE)
        return path

    def _body(self) -> Any:
        """Return the JSON that comes with a request."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing.")
        if int(length) > _MAX_BODY:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"A request has at most {_MAX_BODY} bytes; got {length}.",
            )
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The request is not JSON: {error}.") from error

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            self.close_connection = True  # its body may not have been read
            self.send_header("Connection", "close")
        for name, value in {**_HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def log_message(self, *_: Any) -> None:
        """Keep quiet: the token is in every path."""


def _json(
    content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Answer:
    text = json.dumps(content, allow_nan=False)
    return Answer("application/json", text.encode(), status, headers or {})


def _error(status: HTTPStatus, message: object, headers: dict[str, str] | None = None) -> Answer:
    return _json({"error": str(message)}, status, headers)


def _fields(body: Any, *names: str) -> list[Any]:
    """Return the values of the fields that a request must have, and no others."""
    if not isinstance(body, dict) or set(body) != set(names):
        raise ValueError(f"The request must be a JSON object with {' and '.join(names)}.")
    if type(body.get("position", 0)) is not int:
        raise ValueError(f"position must be an integer; got {body['position']!r}.")
    return [body[name] for name in names]


def _page(session: Session) -> Answer:
    """Return the page; only what it brings along itself may run in it."""
    nonce = secrets.token_urlsafe(16)
    text = importlib.resources.files("laplace_al.label").joinpath("page.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy}
    page = text.replace("{nonce}", nonce).encode()
    return Answer("text/html; charset=utf-8", page, headers=headers)


def _state(session: Session) -> Answer:
    return _json(session.state())


def _item(session: Session, position: int) -> Answer:
    return _json(session.describe(position))


def _image(session: Session, position: int) -> Answer:
    try:
        return Answer(*session.image(position))
    except (OSError, UnreadableImageError) as error:
        raise LookupError(f"The image cannot be read: {error}.") from error


def _labels(session: Session) -> Answer:
    headers = {"Content-Disposition": 'attachment; filename="labels.csv"'}
    return Answer("text/csv; charset=utf-8", session.export().encode(), headers=headers)


def _action(name: str, *fields: str) -> Callable[[Session, Any], Answer]:
    """Return a handler that calls a method of the session and answers with the new state."""

    def act(session: Session, body: Any) -> Answer:
        getattr(session, name)(*_fields(body, *fields))
        return _state(session)

    return act


def _similar(session: Session, body: Any) -> Answer:
    return _json({"similar": session.similar(*_fields(body, "label"))})


# No path names a file: items have positions.
_ROUTES: list[tuple[str, dict[str, Callable[..., Answer]]]] = [
    ("", {"GET": _page}),
    ("state", {"GET": _state}),
    (r"items/(\d{1,9})", {"GET": _item}),
    (r"items/(\d{1,9})/image", {"GET": _image}),
    (r"labels\.csv", {"GET": _labels}),
    ("label", {"POST": _action("label", "position", "label")}),
    ("relabel", {"POST": _action("relabel", "position", "label")}),
    ("skip", {"POST": _action("skip", "position")}),
    ("rename", {"POST": _action("rename", "label", "new")}),
    ("withdraw", {"POST": _action("withdraw", "label")}),
    ("similar", {"POST": _similar}),
]
