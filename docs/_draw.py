"""Draw the pictures of the gallery, and the two of the page, from sample_data: python docs/_draw.py (make pictures)."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from embedscope.cli import main

ROOT = Path(__file__).parent.parent
PICTURES = Path(__file__).parent / "pictures"
SAMPLE = ROOT / "sample_data"
CHECKPOINTS = ("early", "late")
OBJECTIVES = ("ce", "ce + silhouette", "0.5*ce + 0.5*latent_boost")

# What is drawn of the two checkpoints, of one of them, and of a run.
_OF_BOTH = ("tsne", "umap", "pca", "trajectory", "compare", "neighbors")
_OF_ONE = ("silhouette", "classes", "gini", "spectrum")
_OF_RUNS = ("training", "comparison")

# Pixels; the text of a page is about 700 wide.
_WIDTH = 1400


def run(*arguments: object) -> None:
    """Run a command of embedscope; stop if it fails."""
    if code := main([str(argument) for argument in arguments]):
        sys.exit(code)


def draw(folder: Path) -> None:
    """Make features and a run in a folder, and draw every kind of plot and a page of them."""
    stores = [folder / f"{name}.h5" for name in CHECKPOINTS]
    for name, store in zip(CHECKPOINTS, stores, strict=True):
        model, checkpoint = f"{SAMPLE}/network.py:DigitNet", SAMPLE / f"{name}.safetensors"
        run("extract", model, SAMPLE / "digits", "--checkpoint", checkpoint, "-o", store, "-q")
    layers = ["--layer", "conv*", "--layer", "embedding", "--layer", "classifier.input", "-o", folder / "network.h5"]
    run("extract", model, SAMPLE / "digits", "--checkpoint", checkpoint, *layers, "-q")
    objectives = [part for each in OBJECTIVES for part in ("--objective", each)]
    run("finetune", stores[0], "-o", folder / "run", "--head", "mlp(64, 32)", "--trials", 5, *objectives, "-q")
    PICTURES.mkdir(exist_ok=True)
    of_one = [*stores[1:], "--split", "test"]
    jobs = [
        *((kind, [*stores, "--split", "test"]) for kind in _OF_BOTH),
        *((kind, of_one) for kind in _OF_ONE),
        ("layers", [folder / "network.h5", "--split", "test"]),
        ("issues", [spoiled(folder, model, checkpoint)]),
        *((kind, [folder / "run"]) for kind in _OF_RUNS),
    ]
    for kind, given in jobs:
        run("plot", *given, "--kind", kind, "-o", PICTURES / f"{kind}.png", "--overwrite", "-q")
        shrink(PICTURES / f"{kind}.png")
    run("plot", *stores, "--split", "test", "--kind", "tsne", "-o", folder / "report.html", "-q")
    photograph(folder / "report.html")


def spoiled(folder: Path, model: str, checkpoint: Path) -> Path:
    """Make features of the digits with ten in a wrong class folder, and four training images among the test images."""
    digits, generator = folder / "digits", random.Random(0)
    shutil.copytree(SAMPLE / "digits", digits)
    for image in generator.sample(sorted((digits / "train").glob("*/*.png")), 10):
        other = str((int(image.parent.name) + generator.randint(1, 9)) % 10)
        image.rename(digits / "train" / other / image.name)
    for image in generator.sample(sorted((digits / "train").glob("*/*.png")), 4):
        shutil.copy(image, digits / "test" / image.parent.name / f"copy-{image.name}")
    run("extract", model, digits, "--checkpoint", checkpoint, "-o", folder / "spoiled.h5", "-q")
    return folder / "spoiled.h5"


def shrink(picture: Path) -> None:
    """Reduce a picture to the width that the site shows twice over, and to 255 colors."""
    from PIL import Image

    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    if image.width > _WIDTH:
        image = image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS)
    # Maximum coverage keeps the colors of small classes, which the median cut merges.
    image.quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(picture, optimize=True)


def photograph(page: Path) -> None:
    """Photograph a page, light and dark, in a headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--enable-unsafe-swiftshader"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        )
        driver.get(page.as_uri())
        drawn = "return document.documentElement.dataset.drawn === 'all'"
        for name in ("light", "dark"):
            if name == "dark":
                driver.find_element(By.ID, "theme").click()
                driver.execute_script("document.activeElement.blur()")
            WebDriverWait(driver, 300).until(lambda found: found.execute_script(drawn))
            driver.execute_script("document.getElementById('map').scrollIntoView()")
            time.sleep(2)  # for the frame after
            driver.save_screenshot(str(PICTURES / f"page-{name}.png"))
    finally:
        driver.quit()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch))
