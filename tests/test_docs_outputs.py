"""What the pages print is what the commands print: every `embedscope score` of the sample data is run again."""

import re
import shlex

import numpy as np
import pytest

from embedscope.cli import main
from tests.conftest import ROOT

SAMPLE = ROOT / "sample_data"
# Features that a page makes by other means than `extract`, and a metric that takes long with intervals of four layers.
OTHERS = re.compile(r"iris|dirty|faded|same\.h5|spread|knn_accuracy")
# Values of another machine differ in their last digits; p-values differ by more.
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def shown():
    """(page, command, output) of the commands that can be run again, with whatever output they are shown with."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                words = shlex.split(command)
                if words[:2] == ["embedscope", "score"] and output.strip() and not OTHERS.search(command) and "|" not in words:
                    yield page.relative_to(ROOT).as_posix(), words[1:], output


SHOWN = list(shown())


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "sample_data").symlink_to(SAMPLE)
    layers = ["--layer", "conv*", "--layer", "embedding", "--layer", "classifier.input"]
    for name, checkpoint, further in (("early", "early", []), ("late", "late", []), ("layers", "late", layers)):
        model = f"{SAMPLE}/network.py:DigitNet"
        weights = ["--checkpoint", str(SAMPLE / f"{checkpoint}.safetensors")]
        assert main(["extract", model, str(SAMPLE / "digits"), *weights, *further, "-q", "-o", str(folder / f"{name}.h5")]) == 0
    return folder


def flat(text):
    return " ".join(re.sub("─+", "─", text).split())  # rich before 14.3 makes columns wider


def test_there_are_some():
    assert len(SHOWN) >= 8


@pytest.mark.parametrize(("page", "command", "output"), SHOWN, ids=[f"{page} {shlex.join(words)}" for page, words, _ in SHOWN])
def test_output_is_what_the_command_prints(stores, monkeypatch, capsys, page, command, output):
    monkeypatch.chdir(stores)
    main(command)
    found = capsys.readouterr()
    expected = flat(output)
    for line in found.err.splitlines():
        expected = expected.replace(flat(line), "")
    expected, real = flat(expected), flat(found.out)
    pieces, count = NUMBER.split(expected), len(NUMBER.findall(expected))
    assert NUMBER.split(real)[: count + 1][:-1] == pieces[:-1]  # the page may show the beginning alone
    given, made = (
        np.array([float(each.replace(",", "")) for each in NUMBER.findall(text)[:count]]) for text in (expected, real)
    )
    np.testing.assert_allclose(made, given, rtol=2e-3, atol=2e-3)
