"""The main paths in a real browser: clicked through, watched to the end, and looked over by axe."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from web_findings import FIXTURES, MAIL, history, place_of
from web_logs import oops
from web_server import serving

from ktriage.case.store.types import FindingKind
from ktriage.console import read_crashes
from ktriage.jobs.keeping import keep_bisection
from ktriage.web.settings import Settings

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
PICTURES = os.environ.get("KTRIAGE_PICTURES")
"""A folder for the pictures that the documentation shows; none are made where it is not set."""
LARGEST_PICTURE = 300_000
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def site(store) -> Iterator[str]:
    with serving(store, Settings()) as address:
        yield address


@pytest.fixture(params=["light", "dark"])
def page(browser, site, request) -> Iterator[Page]:
    """A page whose every error fails the test."""
    context = browser.new_context(
        base_url=site, color_scheme=request.param, viewport={"width": 1200, "height": 900}
    )
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield opened
    context.close()
    assert errors == []


def serious(page: Page) -> list[str]:
    """Return what axe calls serious or critical on a page."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")
    ]


def picture(page: Page, name: str, at: str | None = None) -> None:
    """Keep a picture for the documentation: of the window, or of an element as far as that shows it."""
    light = page.evaluate("matchMedia('(prefers-color-scheme: light)').matches")
    if not PICTURES or not light:
        return
    path = Path(PICTURES) / f"{name}.png"
    if at is not None:
        page.locator(at).evaluate("element => element.scrollIntoView()")
    page.screenshot(path=path)
    assert path.stat().st_size < LARGEST_PICTURE


def test_from_the_list_to_a_bug_and_its_log(page):
    page.goto("/")
    assert serious(page) == []
    page.get_by_label("Words").fill("tcp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("1 bug found")
    page.get_by_role("link", name="tcp_alpha").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("tcp_alpha")
    assert serious(page) == []
    page.locator("#state select").select_option("fixed")
    page.get_by_label("Fixed by commit").fill("0123456789ab")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("header")).to_contain_text("fixed by 0123456789ab")
    page.get_by_role("link", name="Log of crash").first.click()
    expect(page.locator("body")).to_contain_text("tcp_alpha+0x9/0x20")


def many(store) -> None:
    """Put more bugs into a store, as they came in some weeks."""
    for number, path in enumerate(sorted((FIXTURES / "console").glob("*.log"))):
        data = path.read_bytes()
        for time_of in range(1 + number % 7):
            text = data + b"%d\n" % time_of
            ago = (number * 7919 + time_of * 104729) % 2_600_000
            store.add_log(f"/logs/{time_of}/{path.name}", text, read_crashes(text), when=time.time() - ago)


def test_a_bug_with_all_that_was_found(page, store, found):
    if PICTURES:
        many(store)
    page.goto("/")
    picture(page, "web-bugs")
    page.goto(f"/bugs/{found}")
    picture(page, "web-bug")
    picture(page, "web-bug-reproducer", at="#reproducer")
    picture(page, "web-bug-references", at="#references")
    for link in page.get_by_role("navigation", name="Sections").get_by_role("link").all():
        target = link.get_attribute("href") or ""
        if target.startswith("#"):
            expect(page.locator(target).get_by_role("heading").first).to_be_visible()
    assert serious(page) == []
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert serious(page) == []
    picture(page, "web-bug-dump", at="#dump > details:last-of-type")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the mail").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == MAIL


def test_on_a_phone_nothing_is_wider_than_the_screen(page, store, found):
    page.set_viewport_size(PHONE)
    bisection = store.findings(kind=FindingKind.BISECTION)[0].id
    for path in ("/", "/search?stack=module_put", "/upload", f"/bugs/{found}", f"/bisections/{bisection}",
                 *(f"/findings/{one.id}" for one in store.findings(found))):  # fmt: skip
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
    page.goto(f"/bugs/{found}")
    assert serious(page) == []


def test_a_stack_is_opened_by_the_keyboard(page, found):
    page.goto(f"/bugs/{found}")
    frame = page.locator("#crash summary.frame").first
    line = page.get_by_text("WARN_ON(atomic_dec_if_positive")
    expect(line).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Tab")
        if frame.evaluate("element => element === document.activeElement"):
            break
    expect(frame).to_be_focused()
    page.keyboard.press("Enter")
    expect(line).to_be_hidden()
    page.keyboard.press("Enter")
    expect(line).to_be_visible()


def test_a_log_is_pasted(page):
    page.goto("/upload")
    assert serious(page) == []
    log = oops("pasted", comm="<script>document.title='owned'</script>")
    page.get_by_label("Paste a console log").fill(log.decode())
    page.get_by_role("button", name="Read it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 crash in this log")
    page.get_by_text("The report as the console had it").click()
    expect(page.locator("pre", has_text="<script>document.title='owned'</script>").first).to_be_visible()
    assert "owned" not in page.title()
    assert serious(page) == []
    page.get_by_role("link", name="bug 4").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("pasted")


def test_with_the_keyboard_alone(page):
    page.goto("/bugs/1")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#main$"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_without_javascript(browser, site, found):
    context = browser.new_context(base_url=site, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"/bugs/{found}")
    expect(page.get_by_role("region", name="Mail")).to_contain_text("this was bisected.")
    expect(page.get_by_role("button", name="Copy the mail")).to_be_hidden()
    page.locator("#crash summary", has_text="Registers").click()
    expect(page.locator("#crash dl.regs")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download it").click()
    assert download.value.path().read_text() == MAIL
    page.goto("/")
    page.get_by_role("link", name="ext4_gamma").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ext4_gamma")
    page.goto("/search?stack=udp_beta")
    expect(page.get_by_role("link", name="in udp_beta")).to_be_visible()
    context.close()


def test_a_bisection_is_watched_to_its_end(page, store, tmp_path):
    history(tmp_path / "repo", 24, 17)
    log = tmp_path / "bisection.jsonl"
    command = [
        sys.executable, "-m", "ktriage", "bisect", "run", "--repo", tmp_path / "repo", "--good", "HEAD~23",
        "--bad", "HEAD", "--log", log, "--seed", "1", "--", "sh", "-c", "sleep 0.3; grep -q good state",
    ]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        number = keep_bisection(place_of(store), log, 1)
        page.goto("/bugs/1")
        page.get_by_role("link", name="A bisection of this bug is under way").click()
        expect(page).to_have_url(re.compile(f"/bisections/{number}$"))
        status = page.locator("#live [role=status]")
        expect(status).to_contain_text("Under way")
        assert serious(page) == []
        picture(page, "web-bisection-live")
        expect(status).to_contain_text("Ended: culprit", timeout=60_000)
        expect(page.locator("#live")).to_contain_text("change 17")
        assert serious(page) == []
        assert running.wait(timeout=30) == 0
        keep_bisection(place_of(store), log, 1)
        (finding,) = store.findings(1)
        assert finding.data["subject"] == "change 17"
        log.unlink()
        page.goto("/bugs/1")
        expect(page.locator("#culprit")).to_contain_text("change 17")
    finally:
        running.kill()
        running.wait()
