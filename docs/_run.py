"""Run the commands and the Python of README and of every page with an installed embedscope: PYTHON docs/_run.py [PAGE ...].

The tutorial runs first, in an empty folder; each other page runs in a copy of what the tutorial leaves. It fails where a command
fails that the page does not show to fail, and where an output lacks a word, or differs in a number, of what the page shows.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
FIRST = "docs/tutorial.md"
# What a reader has done before, or does in a clone.
SKIPPED = ("pip ", "make ")
# The files and arrays of the reader's own that README and the guide speak of, made of the sample data.
FILES = {
    "README.md": "cp sample_data/network.py . && echo 'Net = DigitNet' >> network.py && cp -r sample_data/digits photos && "
    "mv late.h5 own.h5 && rm -r run && cp sample_data/late.safetensors late.ckpt && embedscope score early.h5 --json -q > a.json"
}
ARRAYS = """
from collections import OrderedDict
import torch, embedscope as es
from pathlib import Path
early, late = (es.open_features(path)[0] for path in ("early.h5", "late.h5" if Path("late.h5").exists() else "own.h5"))
labels, early, late = torch.as_tensor(early.labels), early.features[:], late.features[:]
features, logits = early, late[:, :10]
model = torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(64, 16), fc=torch.nn.Linear(16, 10)))
loader = [(late[:100], labels[:100]), (late[100:200], labels[100:200])]
"""
NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
TIMED = re.compile(r"[\d.,]+ (?:s\b|rows/s)")  # differs from run to run


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (language, source, output) in order: a command at a time, and Python with the text block below it."""
    for language, inside, after in re.findall(
        r"^```(console|python)\n(.*?)^```$(?=(\s*```text\n.*?^```$)?)", text, re.M | re.S
    ):
        if language == "python":
            yield language, inside, re.sub(r"^\s*```\w*$", "", after, flags=re.M)
        else:
            for part in re.split(r"^\$ ", inside, flags=re.M)[1:]:
                command = re.match(r"(?:.*\\\n)*.*\n", part)[0]  # type: ignore[index]
                yield language, command, part.removeprefix(command)


def typed(command: str, folder: Path, site: Path) -> tuple[int, str]:
    """Run a command in a shell that finds the installed embedscope first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "COLUMNS": "80", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(site)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def executed(source: str, names: dict[str, Any]) -> tuple[int, str]:
    """Run Python in this process, so that blocks see what those before them have defined."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(source, "<page>", "exec"), names)
        except Exception:
            return 1, traceback.format_exc()
    return 0, out.getvalue()


def missing(shown: str, printed: str) -> list[str]:
    """Return what a page shows and the output lacks; the output may have more, and last digits may differ."""
    words = [TIMED.sub("", text).replace("...", "").split() for text in (shown, printed)]
    masked = [[NUMBER.sub("#", word) for word in each] for each in words]
    found = []
    for change, start, stop, at, _ in difflib.SequenceMatcher(None, *masked, autojunk=False).get_opcodes():
        if change in ("replace", "delete"):
            found.append(" ".join(words[0][start:stop]))
        for offset in range(stop - start) if change == "equal" else ():
            pairs = zip(
                *(NUMBER.findall(each[where]) for each, where in zip(words, (start + offset, at + offset), strict=True)),
                strict=True,
            )
            for pair in pairs:
                one, other = (float(each.replace(",", "").replace("−", "-")) for each in pair)
                if abs(one - other) > 2e-3 * (1 + abs(other)):
                    found.append(f"{pair[0]} (printed: {pair[1]})")
    return found


def run(page: str, folder: Path, site: Path) -> list[str]:
    """Run a page in a folder; return what is wrong with it."""
    os.chdir(folder)
    if page in FILES:
        typed(FILES[page], folder, site)
    names: dict[str, Any] = {}
    if page in ("README.md", "docs/guide/python.md"):
        exec(ARRAYS, names)
    faults = []
    for language, source, output in blocks((ROOT / page).read_text(encoding="utf-8")):
        if language == "console" and source.startswith(SKIPPED):
            continue
        if source.startswith("cd "):
            folder = folder / source.split()[1]
            os.chdir(folder)
            continue
        code, printed = typed(source, folder, site) if language == "console" else executed(source, names)
        lacks = missing(output, printed)
        if lacks or (code and "embedscope: " not in output):
            faults.append(f"{page}: exit code {code}\n$ {source}{printed}\nnot printed: {lacks}\n")
    return faults


def main(pages: list[str]) -> int:
    """Run pages, all by default, and print what is wrong with them; return how many have a fault."""
    faulty = 0
    with tempfile.TemporaryDirectory() as scratch:
        start, site = Path(scratch, "start"), Path(scratch, "site")
        start.mkdir()
        for page in [FIRST, *(each for each in pages or PAGES if each != FIRST)]:
            folder = start if page == FIRST else shutil.copytree(start / "tutorial", Path(scratch, page.replace("/", "-")))
            began = time.monotonic()
            faults = run(page, folder, site)
            print(f"{page}: {len(faults) or 'no'} faults, {time.monotonic() - began:.0f} s", *faults, sep="\n", flush=True)
            faulty += bool(faults)
        os.chdir(ROOT)
    return faulty


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
