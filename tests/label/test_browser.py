"""A person labels in a browser, and the server is killed in the middle."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
PATIENCE = 60  # seconds
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of an element in WebDriver's JSON
N_ITEMS = 30

digits = load_digits()


class Browser:
    """Headless Chromium by the W3C WebDriver protocol, which is JSON over HTTP."""

    def __init__(self, folder, *, width=1280, height=800, dark=False, touch=False):
        self.driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        line = next(line for line in self.driver.stdout if "started successfully on port" in line)
        self.address = "http://127.0.0.1:" + line.rstrip().rstrip(".").rsplit(" ", 1)[1]
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
        ]
        options = {"binary": CHROMIUM, "args": arguments}
        if touch:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{session['sessionId']}"
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def close(self):
        self._ask("DELETE", "")
        self.driver.terminate()
        self.driver.communicate()

    def open(self, url):
        self._ask("POST", "/url", {"url": url})

    def run(self, script, *args):
        return self._ask("POST", "/execute/sync", {"script": script, "args": args})

    def click(self, selector):
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{element[ELEMENT]}/click", {})

    def press(self, *keys):
        """Press keys, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": strokes}
        self._ask("POST", "/actions", {"actions": [keyboard]})

    def screenshot(self):
        return self._ask("GET", "/screenshot")

    def devtools(self, command, **params):
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def until(self, condition):
        """Wait for an expression in the page to be true; its value."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            value = self.run(f"return {condition}")
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError(f"{condition} is not true after {PATIENCE} s.")

    def _ask(self, method, path, body=None):
        request = urllib.request.Request(
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error


class Server:
    """The command, as a person would start it."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "laplace_al.label", *map(str, arguments), "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stdout if line.startswith("The page: "))
        self.url = line.removeprefix("The page: ").strip()

    def end(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture
def start():
    """Starts the command, and ends it if the test has not."""
    servers = []

    def start(*arguments):
        servers.append(Server(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.end(signal.SIGKILL)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    for i, image in enumerate(digits.images[:N_ITEMS]):
        Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def open_page(browser, server):
    browser.open(server.url)
    browser.until("shown && !isBusy")


def wait_for(browser, n_handled):
    """Wait until so many items have a label or were skipped, and the next one can be seen."""
    browser.until(f"!isBusy && state.counts.labelled + state.counts.skipped === {n_handled}")


def n_handled(browser):
    return browser.run("return state.counts.labelled + state.counts.skipped")


def give_label(browser):
    """Label the item that is shown, by a key or by a click in turn; its position and label."""
    position = browser.run("return shown.item.position")
    label = str(digits.target[position])
    n = n_handled(browser)
    if label not in browser.run("return state.classes.map(each => each.label)"):
        if browser.run("return document.activeElement.id") != "new-class":
            browser.press("+")
        browser.press(*label, "\ue007")  # and enter
    elif n % 2:
        browser.click(f"#classes button[aria-label='{label}']")
    else:
        browser.press(label)
    wait_for(browser, n + 1)
    return position, label


def labels_in(journal):
    """Valid labels by position, from the file itself."""
    connection = sqlite3.connect(journal)
    rows = connection.execute("SELECT position, label FROM labels").fetchall()
    connection.close()
    assert len(dict(rows)) == len(rows)
    return dict(rows)


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH")
class TestBrowser:
    def test_labels_outlive_a_kill(self, browser, start, images, tmp_path):
        journal = tmp_path / "labels.sqlite"
        server = start(images, "--journal", journal)
        open_page(browser, server)
        assert browser.run("return document.activeElement.id") == "new-class"
        given = dict(give_label(browser) for _ in range(14))
        browser.press(" ")  # skip
        wait_for(browser, 15)
        server.end(signal.SIGKILL)
        browser.click("#classes button")  # nobody is there to take it
        browser.until("!isBusy && document.querySelector('#alert').textContent.includes('stopped')")
        assert labels_in(journal) == given

        server = start(images, "--journal", journal)
        open_page(browser, server)
        assert n_handled(browser) == 15
        given |= dict(give_label(browser) for _ in range(N_ITEMS - 15))
        browser.until("shown.item === null && state.recent.length === 12")
        assert labels_in(journal) == given

        # the skipped one is labelled as well, and one is corrected
        (skipped,) = set(range(N_ITEMS)) - set(given)
        browser.run("return correct(arguments[0])", skipped)
        browser.until("isCorrecting && !isBusy")
        browser.press(str(digits.target[skipped]))
        browser.until(f"!isBusy && state.counts.labelled === {N_ITEMS}")
        browser.click("#recent li:nth-child(3) button")
        browser.until("isCorrecting && !isBusy")
        position = browser.run("return shown.item.position")
        wrong = str((digits.target[position] + 1) % 10)
        browser.press(wrong)
        browser.until(f"!isBusy && state.recent[0].label === '{wrong}'")
        server.end(signal.SIGINT)
        expected = {i: str(digits.target[i]) for i in range(N_ITEMS)} | {position: wrong}
        assert labels_in(journal) == expected

    def test_two_windows(self, browser, start, images, tmp_path):
        server = start(images, "--journal", tmp_path / "l.sqlite", "--classes", "cat", "dog")
        open_page(browser, server)
        position = browser.run("return shown.item.position")
        body = json.dumps({"position": position, "label": "cat"}).encode()
        with urllib.request.urlopen(f"{server.url}label", data=body) as answer:
            assert answer.status == 200
        browser.press("d")
        browser.until("!isBusy && !document.querySelector('#alert').hidden")
        assert "already has the label 'cat'" in browser.run(
            "return document.querySelector('#alert').textContent"
        )
        assert browser.run("return shown.item.position") != position
        assert labels_in(tmp_path / "l.sqlite") == {position: "cat"}
        browser.press("2")
        wait_for(browser, 2)
        assert browser.run("return document.querySelector('#alert').hidden")
        server.end(signal.SIGINT)

    def test_nothing_is_refused_by_the_policy_or_broken(self, browser, start, images, tmp_path):
        server = start(images, "--journal", tmp_path / "l.sqlite")
        open_page(browser, server)
        browser.run(
            "window.wrong = []; for (const kind of ['error', 'unhandledrejection',"
            " 'securitypolicyviolation']) window.addEventListener(kind, () => wrong.push(kind))"
        )
        for _ in range(8):
            give_label(browser)
        browser.until("!state.is_busy && state.curve.leave_one_out.length")
        assert browser.run("return wrong") == []
        width = browser.run(
            "return getComputedStyle(document.querySelector('#progress div')).width"
        )
        assert float(width.removesuffix("px")) > 10
        assert browser.run("return document.querySelector('#image').naturalWidth") == 8
        assert browser.run("return document.querySelectorAll('#curve polyline').length") >= 1
        server.end(signal.SIGINT)

    def test_keys_do_not_move_when_labels_are_added(self, browser, start, tmp_path):
        (tmp_path / "t.csv").write_text("text\n" + "some words\n" * 12)
        server = start(tmp_path / "t.csv", "--text", "text", "--journal", tmp_path / "l.sqlite")
        open_page(browser, server)
        seen = {}
        for n, text in enumerate(["cat", "Cow", "c", "2", "7", "Dog", "d", "éa"], start=1):
            browser.run("label(arguments[0])", text)
            wait_for(browser, n)
            now = dict(browser.run("return [...keys]"))
            assert seen.items() <= now.items()
            seen = now
        assert seen == {
            "1": "cat",
            "c": "cat",
            "2": "Cow",
            "3": "c",
            "7": "7",
            "6": "Dog",
            "d": "Dog",
            "8": "éa",
            "é": "éa",
        }
        server.end(signal.SIGINT)

    def test_classes_are_found_renamed_and_withdrawn(self, browser, start, images, tmp_path):
        names = ["cat", *(f"a species with a long name, number {i}" for i in range(40))]
        server = start(images, "--journal", tmp_path / "l.sqlite", "--classes", *names)
        open_page(browser, server)
        # whole names, and no row over another
        assert browser.run(
            "const boxes = [...document.querySelectorAll('#classes button')].map(each =>"
            " [each.scrollHeight <= each.clientHeight, each.scrollWidth <= each.clientWidth]);"
            "return boxes.flat().every(Boolean)"
        )
        browser.press("+", *"number 3")
        visible = "[...document.querySelectorAll('#classes button')].filter(each => !each.hidden)"
        assert len(browser.until(f"{visible}.map(each => each.title)")) == 11
        browser.press("\ue015", "\ue007")  # down and enter
        wait_for(browser, 1)
        assert browser.run("return state.recent[0].label") == names[4]

        # a slip is asked about, and may be meant
        browser.press("+", *"Cat", "\ue007")
        browser.until("document.querySelector('#which').open")
        browser.press("\ue007")
        wait_for(browser, 2)
        assert browser.run("return state.recent[0].label") == "cat"
        browser.press("+", *"Cat", "\ue007")
        browser.until("document.querySelector('#which').open")
        browser.click("#which button:nth-child(3)")  # cancelled
        browser.until("!document.querySelector('#which').open && !isBusy")
        assert n_handled(browser) == 2
        browser.press("+", *"Cat", "\ue007")
        browser.until("document.querySelector('#which').open")
        browser.click("#which button:nth-child(2)")
        wait_for(browser, 3)
        assert browser.run("return state.recent[0].label") == "Cat"

        counts = "Object.fromEntries(state.classes.map(each => [each.label, each.count]))"
        browser.run("return [...document.querySelectorAll('#counts button')].at(-1).click()")
        browser.until("document.querySelector('#rename').open")
        browser.press(*"cat")
        assert "Merge into" in browser.run(
            "return document.querySelector('#rename-do').textContent"
        )
        browser.press("\ue007")
        browser.until(f"!isBusy && {counts}.cat === 2")
        assert "Cat" not in browser.run(f"return {counts}")
        browser.click("#counts button")
        browser.until("document.querySelector('#rename').open")
        browser.click("#withdraw")
        browser.until(f"!isBusy && !('cat' in {counts})")
        assert n_handled(browser) == 1
        server.end(signal.SIGINT)
        assert list(labels_in(tmp_path / "l.sqlite").values()) == [names[4]]
