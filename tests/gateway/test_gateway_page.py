"""The page at /docs as a person uses it, in Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

from tests.gateway_process import GatewayProcess, Json

SECONDS = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    programs = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromedriver are not on PATH; Debian has them in chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


class Page:
    """The page with its calls."""

    def __init__(self, browser: webdriver.Chrome, gateway: GatewayProcess) -> None:
        self.browser = browser
        browser.get(f"{gateway.url}/docs/")

    def wait_for(self, selector: str, inside: WebElement | None = None) -> WebElement:
        place = inside or self.browser
        wait = WebDriverWait(self.browser, SECONDS, ignored_exceptions=[Exception])
        return wait.until(lambda _: place.find_element(By.CSS_SELECTOR, selector))

    def click(self, selector: str, inside: WebElement | None = None) -> None:
        button = self.wait_for(selector, inside)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        WebDriverWait(self.browser, SECONDS).until(expected_conditions.element_to_be_clickable(button)).click()

    def execute(self, call: str) -> tuple[str, Json]:
        """Expands a call, tries it out with the example as it stands, and returns the HTTP status and the answer."""
        block = self.wait_for(f"#operations-{call.replace('.', '-' + call.split('.')[0] + '_')}")
        self.click(".opblock-summary-control", block)
        self.click(".try-out__btn", block)
        self.click(".execute", block)
        status = self.wait_for(".live-responses-table tbody .response-col_status", block).text
        body = self.wait_for(".live-responses-table .response-col_description code.language-json", block)
        return status, json.loads(body.get_attribute("textContent") or "")

    def complaints(self) -> list[str]:
        """Returns what the browser complains about, such as a script that may not be loaded."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_person_trains_and_predicts_from_the_page(browser: webdriver.Chrome, gateway: GatewayProcess) -> None:
    page = Page(browser, gateway)
    try:
        status, answer = page.execute("TrainingService.Fit")
        assert (status, answer["job"]["model"]) == ("200", "flower")
        *_, last = gateway.lines(f"/v1/trainingJobs/{answer['job']['id']}:watch")
        assert last["result"]["job"]["state"] == "JOB_STATE_SUCCEEDED"

        status, answer = page.execute("PredictionService.Predict")
        assert status == "200"
        assert answer["predictions"] == ["versicolor", "setosa"]
        assert answer["classes"] == ["setosa", "versicolor"]
        assert page.complaints() == []
    finally:
        gateway.call("DELETE", "/v1/models/flower?force=true")


def test_an_error_is_shown_with_its_reason(browser: webdriver.Chrome, gateway: GatewayProcess) -> None:
    status, answer = Page(browser, gateway).execute("ModelService.Load")
    assert status.startswith("404")
    assert answer["details"][0]["reason"] == "MODEL_NOT_FOUND"
