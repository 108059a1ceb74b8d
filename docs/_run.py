"""Run what README and the pages show, with an installed embedscope: PYTHON docs/_run.py [PAGE ...] (make test-package).

The tutorial runs first, in an empty folder, and every other page in a copy of what it leaves. A page has a fault if a command
fails that it does not show to fail, or if an output lacks a word that it shows, or differs in a number. The generated reference
has no commands; its examples are doctests.
"""

from __future__ import annotations

import contextlib
import decimal
import difflib
import importlib
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
FIRST = "docs/tutorial.md"
# Installing came before, a clone is elsewhere, and the tutorial has run the demo.
SKIPPED = ("pip ", "make ")
DEMO = "embedscope demo"

# The reader's own files that README speaks of, and the arrays that it and the guide do, made of the sample data.
_OWN = """
from pathlib import Path
import json, shutil, torch
from safetensors.torch import load_file
torch.save(load_file("sample_data/late.safetensors"), "late.ckpt")
Path("network.py").write_text(Path("sample_data/network.py").read_text() + "\\nNet = DigitNet\\n")
Path("late.h5").rename("other.h5")
Path("report.html").unlink(missing_ok=True)
shutil.copytree("sample_data/digits", "photos")
shutil.rmtree("run")
Path("a.json").write_text(json.dumps(es.score("early.h5").as_json()))
"""
_ARRAYS = """
from collections import OrderedDict
import torch, embedscope as es
early, late = (es.open_features(path)[0] for path in ("early.h5", "late.h5"))
labels, early, late = torch.as_tensor(early.labels), early.features[:], late.features[:]
features, logits = early, late[:, :10]
model = torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(64, 16), fc=torch.nn.Linear(16, 10)))
loader = [(late[:100], labels[:100]), (late[100:200], labels[100:200])]
"""
PREPARED = {"README.md": _ARRAYS + _OWN, "docs/guide/python.md": _ARRAYS}

_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
# What differs from run to run: durations and speeds. Lines of tables are as wide as their numbers; "..." leaves something out.
_LOOSE = re.compile(r"[\d.,]+ (?:s\b|rows/s)|─+|\.\.\.")
# Training ends a little elsewhere on another processor.
_EXACT, _TRAINED = 2e-3, 0.03
_ERROR = re.compile(r"^embedscope: (?!warning)", re.MULTILINE)
_LONGEST = 600  # seconds of a command


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (language, source, output) in order: one command at a time, and Python with the text block below it."""
    fence = re.compile(r"^```(console|python)\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
    for language, inside, below in fence.findall(text):
        if language == "python":
            yield language, inside, below
        for part in re.split(r"^\$ ", inside, flags=re.MULTILINE)[1:] if language == "console" else ():
            command = re.match(r"(?:.*\\\n)*.*\n", part)[0]  # type: ignore[index]
            yield language, command, part.removeprefix(command)


def typed(command: str, before: int, site: Path) -> tuple[int, str]:
    """Run a command in a shell that finds the installed embedscope first; `before` is the exit code of the last one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDSCOPE_")}
    environment = {**inherited, "PATH": path, "COLUMNS": "80", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(site)}
    shell = ["bash", "-c", f"(exit {before})\n{command}"]
    try:
        done = subprocess.run(
            shell, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        return 124, f"still running after {_LONGEST} s"
    return done.returncode, done.stdout


@contextlib.contextmanager
def installed(site: Path) -> Iterator[None]:
    """Have the Python blocks of a page find its plugins, as its commands do."""
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        importlib.invalidate_caches()


def executed(source: str, names: dict[str, Any], site: Path) -> tuple[int, str]:
    """Run Python in this process, so that blocks see what those before them have defined."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), installed(site):
        try:
            exec(compile(source, "<page>", "exec"), names)
        except Exception:
            return 1, traceback.format_exc()
    return 0, out.getvalue()


def differ(one: str, other: str, tolerance: float) -> bool:
    """Tell whether two numbers differ by more than a share of the second, and by more than one in the last digit shown.

    After training, by more than the tolerance itself.
    """
    shown, printed = (decimal.Decimal(each.replace(",", "").replace("−", "-")) for each in (one, other))
    digit = int(shown.as_tuple().exponent)
    least = 0.0 if digit >= 0 and "e" not in one else 10.0**digit
    most = max(tolerance * abs(float(printed)), least, tolerance if tolerance == _TRAINED else 0.0)
    return abs(float(shown - printed)) > most * (1 + 1e-9)


def missing(shown: str, printed: str, tolerance: float) -> list[str]:
    """Return what a page shows and the output lacks; the output may have more."""
    words = [_LOOSE.sub("", text).split() for text in (shown, printed)]
    masked = [[_NUMBER.sub("#", word) for word in each] for each in words]
    found = []
    for change, start, stop, at, _ in difflib.SequenceMatcher(None, masked[0], masked[1], autojunk=False).get_opcodes():
        if change in ("replace", "delete"):
            found.append(" ".join(words[0][start:stop]))
        for one, other in zip(words[0][start:stop], words[1][at:], strict=False) if change == "equal" else ():
            if any(differ(*pair, tolerance) for pair in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)):
                found.append(f"{one} (printed: {other})")
    return found


def package(text: str, site: Path) -> None:
    """Install the plugins of a page, as pip would: modules, and their entry points beside them."""
    parts, lines = text.split("```python\n"), []
    for before, after in itertools.pairwise(parts):
        # The paragraph before a plugin names its file.
        if named := re.search(r"`embedscope/(\w+)/(\w+)\.py`", before.rstrip().rpartition("\n\n")[2]):
            kind, name = named.groups()
            (site / "my_package").mkdir(parents=True, exist_ok=True)
            (site / "my_package" / f"{name}.py").write_text(after.partition("```")[0], encoding="utf-8")
            lines += [f"[embedscope.{kind}]", f"{name} = my_package.{name}:{name}"]
    if lines:
        metadata = site / "my_package-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def run(page: str, site: Path) -> list[str]:
    """Run a page in the current folder; return its faults."""
    text, faults, code = (ROOT / page).read_text(encoding="utf-8"), [], 0
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(PREPARED.get(page, ""), names)
    package(text, site)
    for language, source, output in blocks(text):
        if source.startswith(SKIPPED) or (source.startswith(DEMO) and page != FIRST):
            continue
        if source.startswith("cd "):
            os.chdir(source.split()[1])
            continue
        code, printed = typed(source, code, site) if language == "console" else executed(source, names, site)
        lacks = missing(output, printed, _TRAINED if "finetune" in source or "backward()" in source else _EXACT)
        if lacks or (code and not _ERROR.search(output)):
            faults.append(f"exit code {code} of {source}{printed}\nnot printed: {lacks}\n")
    return faults


def main(pages: list[str]) -> int:
    """Run pages, all by default, and print their faults; return how many pages have some."""
    faulty = 0
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch, "start")
        start.mkdir()
        for page in [FIRST, *(each for each in pages or PAGES if each != FIRST)]:
            own = Path(scratch, page.replace("/", "-"))
            os.chdir(start if page == FIRST else shutil.copytree(start / "tutorial", own))
            began = time.monotonic()
            faults = run(page, own.with_suffix(".site"))
            print(f"{page}: {len(faults) or 'no'} faults, {time.monotonic() - began:.0f} s", *faults, sep="\n", flush=True)
            faulty += bool(faults)
        os.chdir(ROOT)
    return faulty


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
