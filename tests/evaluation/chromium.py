"""A page in headless Chromium, driven over its DevTools protocol."""

import json
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHIN_S = 30


class LeftPage(Exception):
    """The tab went on to another page while a script ran in it."""


class Page:
    """A tab; `errors` holds what its console and its exceptions said."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.errors, self._last = socket, [], 0
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        self._last += 1
        self.socket.send(json.dumps({"id": self._last, "method": method, "params": values}))
        while True:
            said = json.loads(self.socket.recv(timeout=WITHIN_S))
            if said.get("id") == self._last:
                if "navigated" in said.get("error", {}).get("message", ""):
                    raise LeftPage(said)
                assert "error" not in said, said
                return said["result"]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        values = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            self.errors.append(values["exceptionDetails"].get("exception", {}).get("description", str(values)))
        elif said.get("method") == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
        elif said.get("method") == "Runtime.consoleAPICalled" and values["type"] == "error":
            self.errors.append(str(values["args"]))

    def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of an expression as soon as it is true, on this page or the one that the tab is on the way to."""
        end = time.monotonic() + WITHIN_S
        while True:
            with suppress(LeftPage):
                if value := self.run(script):
                    return value
            assert time.monotonic() < end, f"never true: {script}; {self.errors}"
            time.sleep(0.05)

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def size(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def picture(self, path: Path) -> None:
        path.write_bytes(b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def browser() -> Iterator[Page]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-extensions", "--remote-debugging-port=0"]
        options += ["--mute-audio", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen([str(CHROMIUM), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(folder, "DevToolsActivePort")
            end = time.monotonic() + WITHIN_S
            while not (port.exists() and len(port.read_text().splitlines()) == 2):
                assert process.poll() is None and time.monotonic() < end, "Chromium does not start"
                time.sleep(0.05)
            number, path = port.read_text().splitlines()
            with connect(f"ws://127.0.0.1:{number}{path}", max_size=None, open_timeout=WITHIN_S) as root:
                root.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                targets = json.loads(root.recv(timeout=WITHIN_S))["result"]["targetInfos"]
            tab = next(each["targetId"] for each in targets if each["type"] == "page")
            address = f"ws://127.0.0.1:{number}/devtools/page/{tab}"
            # A page whose server has ended answers no farewell.
            with connect(address, max_size=None, open_timeout=WITHIN_S, close_timeout=1) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait()
