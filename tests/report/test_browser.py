"""The report and the review in headless Chromium: no error, no request elsewhere, keys, accessibility.

`make test-slow` installs what they need: Chromium (where it may), playwright and axe-core.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ffhqref.dataset import verdicts
from ffhqref.report import facts
from ffhqref.report.session import ReviewOptions, questions
from ffhqref.report.write import write_report
from tests.report.making import HOSTILE, make_dataset, names_of

ROOT = Path(__file__).parents[2]
CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
AXE = Path(os.environ.get("AXE_CORE", ROOT / ".venv" / "node" / "node_modules" / "axe-core" / "axe.min.js"))
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCHEMES = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: apt-get install chromium, or make test-slow as root"
    ),
]


@dataclass
class Watched:
    """A page, with every complaint of its and every address it asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="pip install playwright: make test-slow does")
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield started
        started.close()


def until(page: Any, expression: str) -> None:
    """Wait until JavaScript is true; the page's own policy forbids Playwright's way of waiting."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def open_page(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> Watched:
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    seen = Watched(page)
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", lambda dialog: seen.complaints.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: seen.asked.append(request.url))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    return seen


def accessible(page: Any) -> list[str]:
    """What axe-core finds wrong, contrast too."""
    if not AXE.is_file():
        pytest.skip(f"no axe-core at {AXE}: make test-slow installs it, or set AXE_CORE")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    return [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found["violations"]]


def broken(page: Any) -> int:
    return int(page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that would do something, were they markup: two of them in the first question."""
    names = [*HOSTILE, *names_of(29 - len(HOSTILE))]
    return make_dataset(tmp_path_factory.mktemp("browser"), names)


@pytest.mark.parametrize("width, scheme", SCHEMES)
def test_the_report(browser: Any, dataset: Path, width: int, scheme: str) -> None:
    path = dataset / "report.html"
    if not path.exists():
        write_report(dataset)
    seen = open_page(browser, path.as_uri(), width, scheme)
    assert seen.complaints == [] and [a for a in seen.asked if not a.startswith("data:")] == [path.as_uri()]
    assert broken(seen.page) == 0
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width, "nothing is cut off"
    assert accessible(seen.page) == []


@dataclass
class Running:
    """A `ffhqref review` in a process of its own; `said` is what it printed after it was stopped."""

    process: subprocess.Popen[str]
    address: str
    said: str = ""

    def stop(self, how: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.said = self.process.communicate(timeout=60)[0]


@contextmanager
def review(out: Path, *words: str) -> Iterator[Running]:
    command = [sys.executable, "-u", "-m", "ffhqref", "review", str(out), "--who", "ann", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    running = Running(process, "")
    try:
        assert process.stdout
        lines = (re.search(r"http://\S+", line) for line in process.stdout)
        running.address = next(found[0] for found in lines if found)
        yield running
    finally:
        running.stop()


@pytest.fixture
def fresh(dataset: Path) -> Path:
    for path in dataset.glob("*verdicts.csv*"):
        path.unlink()
    return dataset


def kinds(out: Path) -> list[str]:
    """Of each answer its kinds, in order."""
    found: dict[str, str] = {}
    for line in verdicts.read(verdicts.path_of(out)):
        found.setdefault(line.when, line.kind)
    return list(found.values())


def seen_count(page: Any, count: int) -> None:
    until(page, f"document.getElementById('progress').textContent.startsWith('{count} of')")


@pytest.mark.parametrize("width, scheme", SCHEMES)
def test_the_review_s_page(browser: Any, fresh: Path, width: int, scheme: str) -> None:
    with review(fresh) as running:
        seen = open_page(browser, running.address, width, scheme)
        seen.page.wait_for_selector("#sides img")
        assert broken(seen.page) == 0 and seen.complaints == []
        assert all(address.startswith((running.address.split("/?")[0], "data:")) for address in seen.asked)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        assert accessible(seen.page) == []


def test_keys_alone_write_the_right_file(browser: Any, fresh: Path) -> None:
    asked = questions(facts.load(fresh), ReviewOptions("ann"), [])
    with review(fresh) as running:
        page = open_page(browser, running.address).page
        page.wait_for_selector("#sides img")
        page.keyboard.press("y")
        seen_count(page, 1)
        page.keyboard.press("u")
        seen_count(page, 0)
        page.keyboard.press("r")
        seen_count(page, 1)
        page.keyboard.press("u")
        seen_count(page, 0)
        page.wait_for_selector("#sides img")
        page.keyboard.press("l")  # the smaller side is selected
        until(page, "document.querySelector('[aria-pressed=true]')")
        selected = page.eval_on_selector_all(
            "[aria-pressed=true]", "all => all.map(one => Number(one.dataset.at))"
        )
        smaller = min(asked[0].left_side, asked[0].right_side, key=len)
        assert len(selected) == len(smaller)
        page.keyboard.press("t")
        page.keyboard.type("yes, no: two <b>people</b>")
        page.keyboard.press("Escape")
        page.keyboard.press("p")
        until(page, "!document.getElementById('undo').disabled")
        until(page, "document.getElementById('note').value === ''")
        running.stop(signal.SIGINT)
    assert "Next: ffhqref cluster" in running.said
    lines = verdicts.standing(verdicts.read(verdicts.path_of(fresh)))
    index = facts.load(fresh).faces.index
    apart = [v for v in lines if v.kind == "different"]
    sides = {frozenset((index[v.left] in selected, index[v.right] in selected)) for v in apart}
    assert sides == {frozenset((True, False))} and all(v.note == "yes, no: two <b>people</b>" for v in lines)
    assert kinds(fresh) == ["same", "undone", "same", "undone", "same" if len(selected) > 1 else "different"]


def test_merge_freeze_exclude_and_a_second_window(browser: Any, fresh: Path) -> None:
    with review(fresh) as running:
        page = open_page(browser, running.address).page
        other = open_page(browser, running.address).page
        page.wait_for_selector("#near img")
        page.click("#near li:nth-child(1) button")
        page.click("#near li:nth-child(2) button")
        page.keyboard.press("m")
        until(page, "!document.getElementById('undo').disabled")
        other.wait_for_selector("#sides img")
        other.keyboard.press("1")
        other.keyboard.press("x")
        other.wait_for_selector("#sides .excluded")
        page.keyboard.press("f")
        page.wait_for_timeout(1000)
    lines = verdicts.read(verdicts.path_of(fresh))
    assert sum(v.kind == "same" for v in lines) == 2 and sum(v.kind == "excluded" for v in lines) == 1
    assert sum(v.kind == "frozen" for v in lines) == 7


def test_a_killed_server_loses_nothing_and_the_page_says_so(browser: Any, fresh: Path) -> None:
    with review(fresh) as running:
        page = open_page(browser, running.address).page
        page.wait_for_selector("#sides img")
        page.keyboard.press("n")
        seen_count(page, 1)
        running.stop()
        page.keyboard.press("u")
        until(page, "document.getElementById('message').textContent.includes('has stopped')")
    with review(fresh) as again:
        page = open_page(browser, again.address).page
        seen_count(page, 1)
        page.keyboard.press("u")
        seen_count(page, 0)
    assert kinds(fresh) == ["different", "undone"]


def test_without_doubts_the_page_says_so(browser: Any, fresh: Path) -> None:
    with review(fresh, "--only", "contradictions") as running:
        seen = open_page(browser, running.address)
        until(seen.page, "document.getElementById('title').textContent === 'There is nothing to ask'")
        seen.page.keyboard.press("y")
        assert seen.complaints == [] and accessible(seen.page) == []
