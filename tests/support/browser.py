"""A real Chromium without a window, driven over its debugging protocol: pages as people use them, keys as they press them."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0",
    "--lang=en-US",
)  # fmt: skip
_WAIT_S = 60
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}


class Browser:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: object) -> dict[str, object]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_WAIT_S):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message
                    result = message["result"]
                    assert isinstance(result, dict)
                    return result

    async def evaluate(self, expression: str) -> object:
        """The value of JavaScript, of its promise where it is one."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        result = answer["result"]
        assert isinstance(result, dict)
        return result.get("value")

    async def until(self, condition: str) -> None:
        """Wait for JavaScript that is true."""
        await self.evaluate(
            f"new Promise((done) => {{ const look = () => ({condition}) ? done(true) : setTimeout(look, 20); look(); }})"
        )

    async def open(self, url: str) -> None:
        await self.call("Page.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.protocol !== 'about:'")

    async def press(self, key: str, times: int = 1, *, shift: bool = False) -> None:
        common = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": 8 if shift else 0}
        text = {"Enter": "\r", " ": " "}.get(key)
        for _ in range(times):
            await self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
            await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def write(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def tab_to(self, condition: str, most: int = 60) -> None:
        """Press Tab until the element with the focus (``it``) fulfils the condition."""
        for _ in range(most):
            if await self.evaluate(f"((it) => Boolean({condition}))(document.activeElement)"):
                return
            await self.press("Tab")
        raise AssertionError(f"no element with {condition} is reached by Tab")

    async def look(self, width: int, height: int, *, dark: bool = False, touch: bool = False) -> None:
        """Be a screen of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(str(answer["data"])))


@asynccontextmanager
async def browser(profile: Path, key_pin: str) -> AsyncIterator[Browser]:
    """With an empty ``profile``; believes the server whose key has the SHA-256 ``key_pin`` (base64), and nobody else."""
    profile.mkdir()
    process = await asyncio.create_subprocess_exec(
        "chromium", *_ARGUMENTS, f"--user-data-dir={profile}", f"--ignore-certificate-errors-spki-list={key_pin}",
        "about:blank", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_WAIT_S):
            while b"DevTools listening on" not in (line := await process.stderr.readline()):
                assert line, "chromium has ended"
        address = line.decode().split()[-1].split("/")[2]
        drain = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/json/list") as answer:
                pages = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=64 << 20) as socket:
                yield Browser(socket)
            process.terminate()
        await drain
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
