"""The page in a real browser, wide and narrow."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from serving_site import Site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_each_run_continues_the_prompt_beside_the_others(
    browser: Any, site: Site, width: int
) -> None:
    view = {"viewport": {"width": width, "height": 800}, "has_touch": width < 500}
    with browser.new_context(**view) as context:
        page, problems = context.new_page(), []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        own = f"127.0.0.1:{site.port}/"
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://{own}")
        page.wait_for_selector("article:nth-of-type(2)")
        prompt = "<b>A</b>"
        page.fill("#prompt", prompt)
        page.fill("#tokens", "20")
        page.click("#start")
        page.wait_for_selector("#start:not([disabled])")
        body = {"prompt": prompt, "max_tokens": 20, "temperature": 0.7}
        for name, card in zip(site.runs, page.locator("article").all(), strict=True):
            options = {"model": name, "top_p": 0.95, "seed": 0}
            [choice] = site.post({**body, **options})[1]["choices"]
            text = card.locator(".output").text_content()
            assert text == prompt + choice["text"]
            assert "tokens/s, " in card.locator("p").nth(1).inner_text()
        assert page.locator(".output b").count() == 0  # it is text
        token = page.locator(".output .token").nth(3)
        token.tap() if width < 500 else token.hover()
        assert page.locator("#tip").is_visible()
        assert " %" in page.locator("#tip").inner_text()
        inside = "document.documentElement.scrollWidth <= window.innerWidth"
        assert page.evaluate(inside)
        assert not problems
        assert asked and all(url.startswith(f"http://{own}") for url in asked)
