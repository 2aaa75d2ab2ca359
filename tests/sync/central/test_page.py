"""The overview page in a real browser, by keyboard alone, in both languages and on a small screen."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.keys.signer import KeySpec
from sync.central.rows import Action, Alert, Revocation
from sync.central.server_identity import KEY
from tests.support.authority import SteppedClock
from tests.support.browser import Browser, browser
from tests.support.desk import Desk, open_desk
from tests.support.edge import Edge
from tests.support.line_edge import ORDER, LineEdge
from tests.support.served_central import joined

PAGE = Path("sync/central/page")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Two gateways with certificates, of which one has never been heard of, and an alert."""
    async with open_desk(tmp_path, SteppedClock(int(time.time() * 1000))) as made:
        served = made.served
        edge = Edge()
        for number in range(1, 4):
            edge.issue(number, device=f"SN-{number}")
        await joined(served, edge, group="line-3")
        await served.ingest.carried(edge.origin, edge.batch(0))
        await joined(served, Edge("two"))
        await served.project()
        async with served.central.store.transaction() as t:
            text = "no contact <script>document.title = 'hacked'</script>"
            await t.put(Alert("silence", "plant.example/two", "", text, served.clock.now_ms()))
        yield made


def key_pin(desk: Desk) -> str:
    key = desk.served.central.ring.software.load_or_generate(KEY, KeySpec.P256).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


async def sign_in(tab: Browser, desk: Desk) -> None:
    await tab.tab_to("it.id === 'secret'")
    await tab.write(desk.secret)
    await tab.press("Enter")
    await tab.until("!document.getElementById('desk').hidden")


async def test_an_operator_works_by_keyboard_alone(desk: Desk, tmp_path: Path) -> None:
    edge = Edge()
    async with browser(tmp_path / "profile", key_pin(desk)) as tab:
        await tab.open(f"{desk.served.url}/")
        await tab.tab_to("it.id === 'secret'")
        await tab.write("wrong")
        await tab.press("Enter")
        await tab.until("document.getElementById('state').textContent.includes('Nobody has this secret')")
        await sign_in(tab, desk)
        rows = await tab.evaluate("[...document.querySelectorAll('#gateways tr')].map((row) => row.innerText)")
        assert isinstance(rows, list)
        assert len(rows) == 2
        assert "line-3" in rows[0]
        marks = await tab.evaluate(
            "[...document.querySelectorAll('.mark')].every((each) => each.dataset.icon && each.innerText)"
        )
        assert marks is True  # never colour alone
        alert = await tab.evaluate("document.getElementById('alerts').innerText")
        assert "carry a bundle" in str(alert)
        assert "<script>" in str(alert)  # shown, not run
        assert await tab.evaluate("document.title") == "edge-central"

        await tab.tab_to("it.id === 'text'")
        await tab.write("device-2")
        await tab.press("Enter")
        await tab.until("document.querySelectorAll('#certificates li').length === 1")
        await tab.tab_to("it.textContent === 'Revoke'")
        await tab.press("Enter")
        await tab.until("document.getElementById('ask').open")
        await tab.press("Escape")
        await tab.until("!document.getElementById('ask').open")
        await tab.tab_to("it.textContent === 'Revoke'")
        await tab.press("Enter")
        await tab.until("document.getElementById('ask').open")
        await tab.tab_to("it.id === 'reason'")
        await tab.press("ArrowDown")
        await tab.tab_to("it.value === 'yes'")
        await tab.press("Enter")
        await tab.until("document.getElementById('certificates').innerText.includes('revoked (Key compromised)')")
        async with desk.served.central.store.transaction() as t:
            (word,) = await t.select(Revocation)
        assert (int.from_bytes(word.serial, "big"), word.reason, word.by) == (edge.serial(2), "keyCompromise", "anna")

        await tab.evaluate("document.activeElement.blur()")
        await tab.tab_to("it.textContent === 'Close alert'")
        await tab.press("Enter")
        await tab.until("document.getElementById('alerts').innerText.includes('Nothing needs attention')")
        await tab.tab_to("it.id === 'leave'", most=80)
        await tab.press("Enter")
        await tab.until("document.getElementById('desk').hidden && !sessionStorage.getItem('secret')")
        assert "device-2" not in str(await tab.evaluate("document.body.innerText"))
    async with desk.served.central.store.transaction() as t:
        changes = [each.action.rpartition("/")[2] for each in await t.select(Action)]
    assert changes == ["revoke", "close"]  # and nothing by what was cancelled


async def test_it_speaks_german_and_fits_a_small_screen(desk: Desk, tmp_path: Path) -> None:
    async with browser(tmp_path / "profile", key_pin(desk)) as tab:
        await tab.look(360, 640, dark=True, touch=True)
        await tab.open(f"{desk.served.url}/page/?lang=de")
        await sign_in(tab, desk)
        assert await tab.evaluate("document.documentElement.lang") == "de"
        assert "Bündel tragen" in str(await tab.evaluate("document.getElementById('alerts').innerText"))
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
        for width, height in ((800, 480), (1024, 600), (360, 640)):
            await tab.look(width, height, dark=True, touch=True)
            assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth") is True, width
        small = (
            "[...document.querySelectorAll('button, input')].filter((it) => it.offsetParent && it.offsetHeight < 44)"
            ".map((it) => it.outerHTML)"
        )
        assert await tab.evaluate(small) == []
        assert await tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 22, 29)"


async def test_it_shows_how_far_an_order_is_and_finds_a_device_of_a_line(desk: Desk, tmp_path: Path) -> None:
    line = LineEdge("line")
    line.make(1, "SN-77")
    line.make(2, end="scrapped")
    await joined(desk.served, line, group="line-4")
    order = {"id": ORDER, "quantity": 4, "credit": 3, "product": "PLC", "profile": "idevid", "serials": ["SN-*"]}
    await desk.ask("PUT", f"/orders/{ORDER}", {"scope": "group:line-4", "order": order}, If_None_Match="*")
    await desk.served.ingest.carried(line.origin, line.batch(0))
    await desk.served.project()
    async with browser(tmp_path / "profile", key_pin(desk)) as tab:
        await tab.look(480, 800, touch=True)
        await tab.open(f"{desk.served.url}/")
        await sign_in(tab, desk)
        shown = str(await tab.evaluate("document.getElementById('orders').innerText"))
        assert "1 of 4 made" in shown
        assert "3 granted · 2 begun · 2 with certificate · 1 scrapped · 0 open" in shown
        assert await tab.evaluate("document.querySelector('#orders progress').position") == 0.25
        await tab.tab_to("it.id === 'text'")
        await tab.write("SN-77")
        await tab.press("Enter")
        await tab.until("document.querySelectorAll('#units li').length === 1")
        assert "confirmed" in str(await tab.evaluate("document.getElementById('units').innerText"))
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth") is True


async def test_what_went_wrong_stays_in_sight_and_in_the_language_that_is_chosen(desk: Desk, tmp_path: Path) -> None:
    in_sight = (
        "((box) => box.height > 0 && box.top >= 0 && box.bottom <= innerHeight)"
        "(document.querySelector('#state.critical').getBoundingClientRect())"
    )
    async with browser(tmp_path / "profile", key_pin(desk)) as tab:
        await tab.look(480, 320, touch=True)
        await tab.open(f"{desk.served.url}/page/?lang=de")
        await tab.tab_to("it.id === 'secret'")
        await tab.write("falsch")
        await tab.press("Enter")
        await tab.until("document.getElementById('state').textContent.includes('hat niemand')")
        assert await tab.evaluate(in_sight) is True
        await tab.evaluate("document.getElementById('language').click()")
        assert await tab.evaluate("document.getElementById('state').textContent") == "Nobody has this secret."

        await sign_in(tab, desk)
        assert "As of" in str(await tab.evaluate("document.getElementById('state').textContent"))
        assert await tab.evaluate("document.getElementById('state').className") == ""
        await tab.evaluate("document.getElementById('language').click()")
        assert "Stand" in str(await tab.evaluate("document.getElementById('state').textContent"))
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
        cut = "[...document.querySelectorAll('td, tbody th')].filter((it) => it.getBoundingClientRect().right > innerWidth)"
        assert await tab.evaluate(f"{cut}.length") == 0  # a row is a card there

        await tab.evaluate("window.fetch = () => Promise.reject(new TypeError('no line'))")
        await tab.evaluate("document.getElementById('text').focus(); document.getElementById('search').requestSubmit()")
        await tab.until("document.getElementById('state').textContent.includes('antwortet nicht')")
        assert await tab.evaluate(in_sight) is True  # however far down one is
        assert "Stand" in str(await tab.evaluate("document.getElementById('state').textContent"))


async def test_only_its_own_files_are_served(desk: Desk) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=desk.served.context())) as session:
        for path in ("/page/../rest.py", "/page/x", "/other", "/page/%2e%2e/rest.py", "/page/index.html/"):
            async with session.get(desk.served.url + path) as answer:
                assert answer.status == 404, path
        async with session.post(desk.served.url + "/page/") as answer:
            assert answer.status == 405
        async with session.get(desk.served.url + "/page/page.js") as answer:
            etag = answer.headers["ETag"]
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get(desk.served.url + "/page/page.js", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304


def test_the_page_needs_no_other_host_and_makes_no_markup_of_text() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "//" not in re.sub(r"(?m)^\s*//.*$| // .*$", "", text), path
        for forbidden in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick="):
            assert forbidden not in text, path


def test_both_languages_have_the_same_words() -> None:
    source = (PAGE / "words.js").read_text(encoding="utf-8")
    tables = re.findall(r"(?ms)^  (en|de): \{(.*?)\n?  ?\},$", source)
    keys = {}
    for language, body in tables:
        keys.setdefault(language, []).append(set(re.findall(r"(\w+): \"", body)))
    assert keys["en"] == keys["de"]
    used = set(re.findall(r'data-word="(\w+)"', (PAGE / "index.html").read_text()))
    used |= set(re.findall(r'word\("(\w+)"\)', (PAGE / "page.js").read_text()))
    assert used <= keys["en"][0]
