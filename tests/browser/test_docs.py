"""The admin's desk in a real browser: it opens without a network, and a person can contribute an image with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

from tests.integration.harness import Picture, Service, cifar_pictures, digit_pictures
from tests.programs import program

pytestmark = pytest.mark.browser

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("desk")).start() as service:
        yield service


@pytest.fixture(scope="module")
def picture() -> Picture:
    return (cifar_pictures() or digit_pictures(1))[0]


@pytest.fixture(scope="module")
def page(desk: Service) -> Iterator[Page]:
    """/docs, with every request that would leave this machine stopped and, at the end, reported as a failure."""
    asked: list[str] = []
    errors: list[str] = []

    def guard(route: Route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", None):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(MILLISECONDS)
        page.route("**/*", guard)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(f"{desk.url}/docs")
        page.wait_for_selector(".opblock")
        yield page
        browser.close()
    assert asked == []
    assert errors == []


@pytest.fixture
def screenshot(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    path = tmp_path / f"{request.node.name}.png"
    page.screenshot(path=path, full_page=True)
    print(f"screenshot: {path}")


def operation(page: Page, method: str, path: str) -> Locator:
    """The block of one operation, opened."""
    exact = page.locator(f'.opblock-{method.lower()}:has([data-path="{path}"])')
    expect(exact).to_have_count(1)
    if "is-open" not in (exact.get_attribute("class") or ""):
        exact.locator(".opblock-summary-control").click()
    expect(exact.locator(".opblock-body")).to_be_visible()
    return exact


def authorize(page: Page, key: str) -> None:
    page.locator(".auth-wrapper .authorize").click()
    dialog = page.locator(".dialog-ux")
    dialog.locator("input").fill(key)
    dialog.locator("button.authorize").click()
    expect(dialog.locator("button", has_text="Logout")).to_be_visible()
    dialog.locator("button.btn-done").click()


@pytest.mark.thorough
def test_every_call_and_its_errors_are_shown(page: Page, desk: Service, screenshot: None) -> None:
    paths = desk.client.get("/openapi.json").json()["paths"]
    calls = {(method, path) for path, operations in paths.items() for method in operations}
    expect(page.locator(".opblock")).to_have_count(len(calls))
    for method, path in sorted(calls):
        block = operation(page, method, path)
        for status in paths[path][method]["responses"]:  # expect waits: the page draws a block bit by bit
            expect(block.locator(f'tr.response[data-code="{status}"]')).to_have_count(1)
        expect(block.locator("tr.response")).to_have_count(len(paths[path][method]["responses"]))


def test_what_is_filled_in_is_an_example_and_not_the_name_of_a_type(page: Page) -> None:
    block = operation(page, "post", "/samples")
    block.locator(".try-out__btn").click()
    filled = [box.input_value() for box in block.locator('input[type="text"]').all()]
    assert "string" not in filled
    assert {"tabby cat", "customer-4711"} <= set(filled)
    expect(block.locator('tr[data-param-name="owner"], tr[data-param-name="label"]')).to_have_count(0)
    block = operation(page, "post", "/erasures")
    block.locator(".try-out__btn").click()
    assert '"validate_only": true' in block.locator("textarea").first.input_value()
    page.reload()
    page.wait_for_selector(".opblock")


def test_a_key_is_forgotten_with_the_page(page: Page, desk: Service) -> None:
    other = page.context.browser.new_context().new_page()  # type: ignore[union-attr]  # a page of this browser
    other.goto(f"{desk.url}/docs")
    other.evaluate('localStorage.setItem("authorized", "left by an earlier release")')
    other.reload()
    other.wait_for_selector(".opblock")
    authorize(other, desk.key)
    kept = other.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")
    assert desk.key not in kept
    assert "authorized" not in kept
    other.reload()
    other.wait_for_selector(".opblock")
    expect(other.locator(".auth-wrapper .authorize.unlocked")).to_have_count(1)
    other.context.close()


def test_an_image_is_contributed_and_classified(
    page: Page, desk: Service, picture: Picture, tmp_path: Path, screenshot: None
) -> None:
    file = tmp_path / picture.name
    file.write_bytes(picture.data)
    authorize(page, desk.key)
    block = operation(page, "post", "/samples")
    block.locator(".try-out__btn").click()
    for name, example in (("label", "tabby cat"), ("owner", "customer-4711")):  # and not "string"
        expect(block.locator(f'tr[data-property-name="{name}"] input')).to_have_value(example)
    block.locator('tr[data-property-name="label"] input').fill(picture.label)
    block.locator('tr[data-property-name="owner"] input').fill("from the desk")
    block.locator('tr[data-property-name="image"] input[type="file"]').set_input_files(file)
    block.locator("button.execute").click()
    answered = block.locator(".live-responses-table .response-col_status").last
    expect(answered).to_contain_text("201", timeout=MILLISECONDS)
    expect(block.locator(".live-responses-table")).to_contain_text("from the desk")
    (sample,) = desk.pages("/samples", owner="from the desk")
    assert sample["label"] == picture.label
    desk.settle()

    block = operation(page, "post", "/predict")
    block.locator(".try-out__btn").click()
    block.locator('tr[data-property-name="image"] input[type="file"]').set_input_files(file)
    block.locator("button.execute").click()
    expect(block.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(block.locator(".live-responses-table")).to_contain_text(picture.label)


def test_a_batch_has_file_choosers(page: Page) -> None:
    block = operation(page, "post", "/samples/batch")
    block.locator(".try-out__btn").click()
    images = block.locator('tr[data-property-name="images"]')
    expect(images.locator('input[type="file"]')).to_have_count(1)
    images.locator("button", has_text="Add").click()
    expect(images.locator('input[type="file"]')).to_have_count(2)


def test_an_error_is_shown_as_a_problem(page: Page, desk: Service) -> None:
    block = operation(page, "get", "/samples/{sample_id}")
    block.locator(".try-out__btn").click()
    block.locator("tr[data-param-name=sample_id] input").fill("01890000-0000-7000-8000-000000000000")
    block.locator("button.execute").click()
    expect(block.locator(".live-responses-table .response-col_status").last).to_contain_text("404")
    expect(block.locator(".live-responses-table")).to_contain_text("There is no sample")
