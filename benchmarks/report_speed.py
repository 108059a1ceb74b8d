"""How large is the page of 50,000 points, how long does it take to make, and how long until it answers? Medians of RUNS.

    python benchmarks/report_speed.py [RUNS]

In Chromium without a window. Seconds are counted by the browser from the start of the navigation: until the maps are drawn and
a class can be picked, until all figures are drawn, and from a click on a class until the maps show it. CPU seconds are those of
the page's main thread.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from embedscope.plotting import report
from embedscope.store.features import FeatureSet

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def write_page(path: Path, count: int, classes: int, inputs: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centers = generator.normal(size=(classes, 16)) * 2
    ids = np.array([f"train/n{label:08d}/n{label:08d}_{row:06d}.JPEG" for row, label in enumerate(labels)], dtype=object)
    names = tuple(f"n{label:08d}" for label in range(classes))
    views = []
    for each in range(inputs):
        rows = torch.from_numpy((centers[labels] * (1 + each) + generator.normal(size=(count, 16))).astype(np.float32))
        found = FeatureSet(f"model {each}", f"{each}.h5", "layer", rows, labels, names, ids)
        views.append(report.View(found, np.arange(count), {"first two": rows[:, :2].numpy()}))
    report.write(path, views)


def open_page(path: Path) -> tuple[float, float, float, float]:
    """Seconds until maps and all figures are drawn, of a click, and CPU seconds of the main thread until all is drawn."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.get(path.as_uri())
        while driver.execute_script("return document.documentElement.dataset.drawn") != "all":
            time.sleep(0.1)
        metrics = {entry["name"]: entry["value"] for entry in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
        maps, everything, click = driver.execute_script(
            """const at = (name) => performance.getEntriesByName(name)[0].startTime / 1000;
            const [maps, all] = [at("maps"), at("all")];
            const start = performance.now();
            document.querySelector("#legend button").click();
            return [maps, all, (performance.now() - start) / 1000];"""
        )
        return maps, everything, click, metrics["TaskDuration"]
    finally:
        driver.quit()


def main() -> None:
    for count, classes, inputs in ((50_000, 10, 1), (50_000, 100, 1), (50_000, 1000, 2)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            cpu, wall = time.process_time(), time.monotonic()
            write_page(path, count, classes, inputs)
            made = f"made in {time.process_time() - cpu:.0f} CPU s, {time.monotonic() - wall:.0f} s"
            found = list(zip(*(open_page(path) for _ in range(RUNS)), strict=True))
            print(f"{count:,} points, {classes:,} classes, {inputs} input(s): {path.stat().st_size / 1e6:.1f} MB, {made}")
            for name, values in zip(("maps drawn", "all drawn", "a click", "CPU of the main thread"), found, strict=True):
                print(f"  {name:24} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
