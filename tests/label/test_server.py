import contextlib
import http.client
import json
import re
import socket
import sqlite3
import threading

import pytest

from laplace_al.label.items import Table
from laplace_al.label.server import LabelServer
from laplace_al.label.session import AlreadyLabelledError, Session

IMAGE = b"\x89PNG and so on"


class FakeSession:
    """Stands for a session: keeps what it is told."""

    def __init__(self):
        self.told = []

    def state(self):
        return {"n": len(self.told)}

    def label(self, position, label):
        if position == 7:
            raise AlreadyLabelledError("7 has a label.")
        if label == "full":
            raise sqlite3.OperationalError("database or disk is full")
        if not isinstance(label, str):
            raise ValueError("A label must be a text.")
        self.told.append(("label", position, label))

    def relabel(self, position, label):
        self.told.append(("relabel", position, label))

    def skip(self, position):
        self.told.append(("skip", position))

    def rename(self, label, new):
        if label == "none":
            raise LookupError("There is no label 'none'.")
        self.told.append(("rename", label, new))

    def withdraw(self, label):
        self.told.append(("withdraw", label))

    def similar(self, label):
        return [label.lower()]

    def describe(self, position):
        if position > 9:
            raise LookupError("There is no such item.")
        return {"item": position}

    def image(self, position):
        if position == 8:
            raise FileNotFoundError("gone.png")
        return "image/png", IMAGE

    def export(self):
        return "position,label\n0,é\n"


@contextlib.contextmanager
def running(session):
    server = LabelServer(session)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def server():
    with running(FakeSession()) as server:
        yield server


@pytest.fixture
def ask(server):
    return asking(server)


def asking(server):
    """A function that sends a request and returns its status, headers and content."""

    def ask(method, path, body=None, *, token=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        token = server.token if token is None else token
        if isinstance(body, dict | list):
            body = json.dumps(body)
        connection.request(method, f"/{token}/{path}", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.headers["Content-Type"] == "application/json" and content:
            content = json.loads(content)
        return answer.status, answer.headers, content

    return ask


PATHS = ["", "state", "items/0", "items/0/image", "labels.csv", "label", "skip", "nothing"]
PATHS += ["rename", "withdraw", "similar"]


class TestAccess:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"])
    def test_nobody_without_the_token(self, ask, server, method, path):
        n_told = len(server.session.told)
        for token in ("", "x", server.token[:-1], server.token + "x", server.token.swapcase(), "é"):
            quoted = token.replace("é", "%C3%A9")
            status, headers, _ = ask(method, path, {"position": 0, "label": "a"}, token=quoted)
            assert status == 403
            assert "Content-Security-Policy" in headers
        assert len(server.session.told) == n_told

    def test_the_token_is_long_and_new(self):
        with LabelServer(None) as one, LabelServer(None) as other:
            assert one.token != other.token
            assert re.fullmatch(r"[\w-]{43}", one.token)
            assert one.url == f"http://127.0.0.1:{one.server_port}/{one.token}/"

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[::1]", "0.0.0.0"],
    )
    def test_no_other_host(self, ask, host):
        assert ask("GET", "state", Host=host)[0] == 403

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9000"])
    def test_names_of_this_machine(self, ask, host):
        assert ask("GET", "state", Host=host)[0] == 200

    def test_no_host_at_all(self, server):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
            connection.sendall(f"GET /{server.token}/state HTTP/1.0\r\n\r\n".encode())
            assert b" 403 " in connection.recv(100)

    def test_no_other_origin(self, ask, server):
        body, host = {"position": 0}, f"127.0.0.1:{server.server_port}"
        for origin in ("http://evil.example", "null", f"https://{host}", "http://127.0.0.1:1"):
            assert ask("POST", "skip", body, Origin=origin)[0] == 403
        assert ask("POST", "skip", body, Origin=f"http://{host}")[0] == 200

    def test_this_machine_only(self, server):
        assert server.server_address[0] == "127.0.0.1"
        assert server.socket.getsockname()[0] == "127.0.0.1"
        others = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None)}
        for address in others:
            if not address.startswith("127.") and ":" not in address:
                with pytest.raises(OSError):  # noqa: PT011
                    socket.create_connection((address, server.server_port), timeout=5)

    def test_a_port_in_use(self, server):
        with pytest.raises(OSError, match="in use"):
            LabelServer(None, server.server_port)


class TestAnswers:
    def test_the_page_brings_all_along(self, ask):
        status, headers, content = ask("GET", "")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = headers["Content-Security-Policy"]
        (nonce,) = set(re.findall(r"'nonce-([\w-]+)'", policy))
        page = content.decode()
        assert page.count(f'nonce="{nonce}"') == 2
        assert "{nonce}" not in page
        assert not re.findall(r"""\son\w+=|style=["']|javascript:""", page)
        assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert ask("GET", "")[1]["Content-Security-Policy"] != policy

    @pytest.mark.parametrize("path", PATHS)
    def test_headers_of_every_answer(self, ask, path):
        headers = ask("GET", path)[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Python" not in headers["Server"]

    def test_what_a_session_knows(self, ask):
        assert ask("GET", "items/3")[2] == {"item": 3}
        status, headers, content = ask("GET", "items/3/image")
        assert (status, headers["Content-Type"], content) == (200, "image/png", IMAGE)
        status, headers, content = ask("GET", "labels.csv")
        assert (status, content.decode()) == (200, "position,label\n0,é\n")
        assert headers["Content-Disposition"] == 'attachment; filename="labels.csv"'

    def test_what_a_session_is_told(self, ask, server):
        server.session.told.clear()
        requests = [
            ("label", {"position": 1, "label": "a"}),
            ("relabel", {"position": 1, "label": "b"}),
            ("skip", {"position": 2}),
            ("rename", {"label": "b", "new": "c"}),
            ("withdraw", {"label": "c"}),
        ]
        for n, (path, body) in enumerate(requests, start=1):
            assert ask("POST", path, body)[::2] == (200, {"n": n})
        assert server.session.told == [
            ("label", 1, "a"),
            ("relabel", 1, "b"),
            ("skip", 2),
            ("rename", "b", "c"),
            ("withdraw", "c"),
        ]
        assert ask("POST", "similar", {"label": "A"})[2] == {"similar": ["a"]}
        assert ask("POST", "rename", {"label": "none", "new": "c"})[0] == 404

    def test_a_connection_is_kept(self, server):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        for _ in range(3):
            connection.request("GET", f"/{server.token}/state?now")
            assert connection.getresponse().read()
        connection.close()


class TestRefusals:
    @pytest.mark.parametrize(
        "path",
        [
            "nothing",
            "items",
            "items/",
            "items/x",
            "items/-1",
            "items/1.0",
            "items/٣",
            "items/99",
            "items/8/image",
            "items/0/image/",
            "items/0000000000/image",
            "state/",
            "page.html",
        ],
    )
    def test_nothing_there(self, ask, path):
        status, _, content = ask("GET", path.replace("٣", "%D9%A3"))
        assert status == 404
        assert content["error"]

    @pytest.mark.parametrize(
        "path",
        [
            "../../../../etc/passwd",
            "..%2f..%2f..%2fetc%2fpasswd",
            "items/../../../etc/passwd",
            "items/..%2f..%2fetc%2fpasswd/image",
            "/etc/passwd",
            "items//etc/passwd/image",
            "items/0/../page.html",
            "labels.csv/../../journal.sqlite",
        ],
    )
    def test_no_path_leads_to_a_file(self, ask, path):
        assert ask("GET", path)[0] == 404

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "", "GET"),
            ("HEAD", "state", "GET"),
            ("DELETE", "items/0", "GET"),
            ("PUT", "labels.csv", "GET"),
            ("GET", "label", "POST"),
            ("OPTIONS", "skip", "POST"),
            ("BREW", "relabel", "POST"),
        ],
    )
    def test_other_methods(self, ask, method, path, allowed):
        status, headers, _ = ask(method, path)
        assert (status, headers["Allow"]) == (405, allowed)

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("label", "no json"),
            ("label", ""),
            ("label", b"\xff\xfe"),
            ("label", "[" * 9000),
            ("label", []),
            ("label", {}),
            ("label", {"position": 1}),
            ("label", {"position": 1, "label": "a", "more": 2}),
            ("label", {"position": "1", "label": "a"}),
            ("label", {"position": 1.0, "label": "a"}),
            ("label", {"position": True, "label": "a"}),
            ("label", {"position": None, "label": "a"}),
            ("label", {"position": 1, "label": None}),
            ("skip", {"position": 1, "label": "a"}),
            ("skip", {"position": [1]}),
            ("rename", {"label": "a"}),
            ("withdraw", {"label": "a", "position": 1}),
            ("similar", {}),
        ],
    )
    def test_bad_input(self, ask, server, path, body):
        n_told = len(server.session.told)
        status, _, content = ask("POST", path, body)
        assert status == 400
        assert content["error"]
        assert len(server.session.told) == n_told

    def test_labelled_already(self, ask):
        status, _, content = ask("POST", "label", {"position": 7, "label": "a"})
        assert (status, content) == (409, {"error": "7 has a label."})

    def test_too_large(self, ask):
        assert ask("POST", "label", {"position": 1, "label": "x" * 10_000})[0] == 413

    def test_no_length(self, ask):
        headers = {"Transfer-Encoding": "chunked"}
        assert ask("POST", "label", b"5\r\n12345\r\n0\r\n\r\n", **headers)[0] == 411

    def test_a_failure_says_what_it_is(self, ask, capsys):
        status, _, content = ask("POST", "label", {"position": 1, "label": "full"})
        assert status == 500
        assert content == {"error": "OperationalError: database or disk is full"}
        assert "Traceback" in capsys.readouterr().err
        assert ask("GET", "state")[0] == 200


class TestStrangers:
    """Programs of this machine that do not know the token."""

    def connections(self, server, n):
        address = "127.0.0.1", server.server_port
        return [socket.create_connection(address, timeout=30) for _ in range(n)]

    def test_many_that_wait_keep_nobody_out(self, server, ask, monkeypatch):
        monkeypatch.setattr(server.RequestHandlerClass, "timeout", 300)
        idle = self.connections(server, 200)
        assert ask("GET", "state")[0] == 200
        for connection in idle[: 200 - 32]:
            assert connection.recv(1) == b""  # closed
        for connection in idle:
            connection.close()

    def test_who_has_shown_the_token_stays(self, server):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET", f"/{server.token}/state")
        assert connection.getresponse().read()
        idle = self.connections(server, 100)
        idle[0].recv(1)
        connection.request("GET", f"/{server.token}/state")
        assert connection.getresponse().read()
        connection.close()
        for connection in idle:
            connection.close()

    def test_they_have_little_time(self, server, monkeypatch):
        monkeypatch.setattr(server.RequestHandlerClass, "timeout", 0.05)
        (connection,) = self.connections(server, 1)
        connection.sendall(b"GET /")
        assert connection.recv(1) == b""
        connection.close()

    def test_where_no_file_can_be_opened(self, server, ask, monkeypatch):
        idle = self.connections(server, 5)
        accept, refusals, pauses = socket.socket.accept, [1, 2], []

        def fail(self):
            if self is server.socket and refusals:
                refusals.pop()
                raise OSError(24, "Too many open files")
            return accept(self)

        monkeypatch.setattr("time.sleep", pauses.append)
        monkeypatch.setattr(socket.socket, "accept", fail)
        assert ask("GET", "state")[0] == 200
        assert pauses == [0.05, 0.05]
        for connection in idle:
            assert connection.recv(1) == b""
            connection.close()

    def test_a_long_queue(self, server):
        assert server.request_queue_size >= 100


def test_a_real_session(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text\nred\ngreen\nblue\n")
    session = Session(Table(path, text="text"), [[1.0], [2.0], [3.0]], tmp_path / "l.sqlite")
    with running(session) as server:
        ask = asking(server)
        position = ask("GET", "state")[2]["item"]["position"]
        body = {"position": position, "label": "warm"}
        status, _, state = ask("POST", "label", body)
        assert (status, state["counts"]["labelled"]) == (200, 1)
        assert ask("POST", "label", body)[0] == 409
        assert ask("POST", "relabel", body | {"label": "cold"})[0] == 200
        assert ask("POST", "skip", {"position": 3})[0] == 404
        assert ask("GET", f"items/{position}")[2]["item"]["label"] == "cold"
        assert ask("GET", "items/0/image")[0] == 404
        assert b",cold," in ask("GET", "labels.csv")[2]
    session.close()
