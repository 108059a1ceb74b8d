"""The browser of the tests of pages."""

import os

import pytest

from tests.plotting.report.browser import CHROMIUM, DRIVER, FLAGS


@pytest.fixture(scope="module")
def chromium():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    quiet = {**os.environ, "SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}  # selenium fetches no driver and reports nothing
    driver = webdriver.Chrome(options=options, service=Service(DRIVER, env=quiet))
    yield driver
    driver.quit()
