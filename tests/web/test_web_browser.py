"""The main paths in a real browser: clicked through, watched to the end, and looked over by axe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from web_logs import oops

from conftest import serving
from ktriage.jobs.keeping import keep_bisection
from ktriage.web.settings import Settings

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
PICTURES = os.environ.get("KTRIAGE_PICTURES")
"""A folder for the pictures that the documentation shows; none are made where it is not set."""

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


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_from_the_list_to_a_bug_and_its_log(page):
    page.goto("/")
    assert serious(page) == []
    picture(page, "web-bugs")
    page.get_by_label("Words").fill("tcp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("1 bug found")
    page.get_by_role("link", name="tcp_alpha").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("tcp_alpha")
    assert serious(page) == []
    picture(page, "web-bug")
    page.locator("#state select").select_option("fixed")
    page.get_by_label("Fixed by commit").fill("0123456789ab")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("header")).to_contain_text("fixed by 0123456789ab")
    page.get_by_role("link", name="Log of crash").first.click()
    expect(page.locator("body")).to_contain_text("tcp_alpha+0x9/0x20")


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
    assert page.url.endswith("#main")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_without_javascript(browser, site):
    context = browser.new_context(base_url=site, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("link", name="ext4_gamma").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ext4_gamma")
    page.goto("/search?stack=udp_beta")
    expect(page.get_by_role("link", name="udp_beta")).to_be_visible()
    context.close()


def history(repo: Path, commits: int, bad: int) -> None:
    """Make a repository whose commit number ``bad`` breaks it."""
    git = ["git", "-C", str(repo), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    for number in range(commits):
        (repo / "state").write_text(f"{number} {'bad' if number >= bad else 'good'}\n")
        subprocess.run([*git, "add", "state"], check=True)
        subprocess.run([*git, "commit", "-qm", f"change {number}"], check=True)


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
        number = keep_bisection(str(store.engine.url.database), log)
        page.goto(f"/bisections/{number}")
        status = page.locator("#live [role=status]")
        expect(status).to_contain_text("Under way")
        assert serious(page) == []
        picture(page, "web-bisection-live")
        expect(status).to_contain_text("Ended: culprit", timeout=60_000)
        expect(page.locator("#live")).to_contain_text("change 17")
        assert serious(page) == []
        picture(page, "web-bisection")
        assert running.wait(timeout=30) == 0
        keep_bisection(str(store.engine.url.database), log)
        (finding,) = store.findings()
        assert finding.data["subject"] == "change 17"
    finally:
        running.kill()
        running.wait()
