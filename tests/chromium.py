"""A Chromium without a window, driven through a pipe (the DevTools protocol); nothing but the standard library.

It is looked for in RBL_CHROMIUM, then on the path. What needs it is skipped where there is none.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 60


def chromium() -> str:
    """Where it is; skips the test where it is not."""
    given = os.environ.get("RBL_CHROMIUM")
    if given:
        assert Path(given).is_file(), f"RBL_CHROMIUM={given} is no file"
        return given
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: set RBL_CHROMIUM to one, or put chromium on the path")
    return found


class Tab:
    """One page: commands go in, answers and events come out."""

    def __init__(self, read: int, write: int) -> None:
        self._in, self._out = os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)
        self._rest, self._count, self.events = b"", 0, list[dict[str, Any]]()
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """The result of a command; events that come before it are kept."""
        self._count += 1
        session = {} if self._session is None else {"sessionId": self._session}
        told = {"id": self._count, "method": method, "params": parameters, **session}
        self._out.write(json.dumps(told).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path) -> None:
        """Load a file, and wait until all of it is there."""
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + _PATIENCE
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until, "the page is not loaded"
            self.events.append(self._next())

    def ask(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, as a keyboard would."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def complaints(self) -> list[str]:
        """Everything that the console has said of errors and warnings, uncaught exceptions, what the policy refused."""
        said = []
        for event in self.events:
            told = event.get("params", {})
            if event.get("method") == "Log.entryAdded":
                said.append(told["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                said.append(told["exceptionDetails"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled":
                said.append(str(told["args"]))
        return said

    def requests(self) -> list[str]:
        """Addresses that the page has asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def close(self) -> None:
        self._in.close()
        self._out.close()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            got = self._in.read(1 << 20)
            assert got, "Chromium has gone"
            self._rest += got
        one, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(one))


@contextmanager
def browser() -> Iterator[Tab]:
    """A fresh Chromium with one tab; it is ended afterwards."""
    to_read, from_us = os.pipe()
    from_it, to_write = os.pipe()
    os.set_inheritable(to_read, True)
    os.set_inheritable(to_write, True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # it reads commands from file descriptor 3 and writes answers to 4
        shell = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        options = ("--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run")
        command = ["bash", "-c", shell, "bash", chromium(), *options, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        try:
            tab = Tab(from_it, from_us)
            yield tab
            tab.close()
        finally:
            process.terminate()
            process.wait(_PATIENCE)
