"""Chromium without a window, driven by selenium, and a page in it."""

import importlib.util
import json
import shutil
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER and importlib.util.find_spec("selenium")),
    reason="selenium is not installed, or no chromium with its chromedriver on the path",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
)


class Page:
    """One page in the browser, at a window size."""

    def __init__(self, driver, path, width=1300, height=900):
        self.driver, self.url = driver, path.resolve().as_uri()
        driver.get_log("browser"), driver.get_log("performance")  # of the page before
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(self.url)
        self.wait(lambda: self.run("return document.documentElement.dataset.drawn") == "all")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition, seconds=90):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.05)
        return found

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def pick(self, name):
        self.run("legendButtons.get(CLASSES.indexOf(arguments[0])).click()", name)
        self.wait(lambda: self.run("return document.documentElement.dataset.drawn") == "all")

    def hover(self, map_number=0):
        """Point at the last sample of the last trace of a map; return what the tip says."""
        from selenium.webdriver.common.action_chains import ActionChains

        x, y = self.run(
            """const figure = figures.filter((each) => each.map)[arguments[0]], plot = figure.plot;
            plot.scrollIntoView({block: "center", behavior: "instant"});
            const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout, trace = figure.made.traces.at(-1);
            return [box.x + xaxis._offset + xaxis.l2p(trace.x.at(-1)), box.y + yaxis._offset + yaxis.l2p(trace.y.at(-1))];""",
            map_number,
        )
        chain = ActionChains(self.driver)
        for step in (3, 0):
            chain.w3c_actions.pointer_action.move_to_location(round(x) + step, round(y))
        chain.perform()
        return self.wait(
            lambda: self.run("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.innerText"), 20
        )

    def drawn_points(self):
        return self.run("return figures.filter((f) => f.map).map((f) => f.made.traces.reduce((sum, t) => sum + t.x.length, 0))")

    def check_silence(self):
        """No error in the console, and no request but the page itself."""
        assert [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [self.url]
