"""Does a damaged store ever read as other data? One random byte is changed at a time; each must give equal data or one line.

`store_damage.py CHANGES` takes another number than 1,000. Every file is read in a process of its own that has ten seconds.
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from embedscope.errors import EmbedscopeError
from embedscope.store import Provenance, StoreWriter, describe, open_features
from embedscope.store.provenance import LayerOrigin, RunOrigin

ROWS = 300


def make(path: Path) -> None:
    generator = np.random.default_rng(0)
    with StoreWriter(
        path,
        labels=np.arange(ROWS) % 3,
        class_names=["one", "two", "three"],
        ids=[f"images/{row:04}.png" for row in range(ROWS)],
        split=["train", "test"] * (ROWS // 2),
        provenance=Provenance(layers={"conv": LayerOrigin(type="Conv2d", pooling="gap")}, run=RunOrigin(command="embedscope")),
    ) as store:
        conv = generator.normal(size=(ROWS, 24)).astype(np.float32)
        store.add({"conv": conv, "fc": conv[:, :8].astype(np.float16)}, {"conv": np.abs(conv)}, logits=conv[:, :3])


def read(path: Path) -> list:
    """All that a reader gets."""
    describe(path)
    return [
        (
            each.layer,
            each.features[:].numpy().tobytes(),
            None if each.magnitudes is None else each.magnitudes[:].numpy().tobytes(),
            each.labels.tobytes(),
            each.class_names,
            tuple(each.ids),
            tuple(each.split),
            each.provenance.as_json(),
        )
        for each in open_features([str(path)])
    ]


def outcome(path: Path, expected: list) -> str:
    pid = os.fork()
    if not pid:
        code = 3
        try:
            code = 0 if read(path) == expected else 2
        except EmbedscopeError as error:
            code = 1 if len(str(error).splitlines()) == 1 else 3
        except BaseException as error:
            print(f"{type(error).__name__}: {str(error)[:200]}", flush=True)
        finally:
            os._exit(code)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            names = {0: "equal data", 1: "one line", 2: "OTHER DATA", 3: "a traceback"}
            return names.get(os.waitstatus_to_exitcode(status), "a crash")
        time.sleep(0.001)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "no end in 10 s"


def main() -> None:
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path, damaged = Path(folder) / "a.h5", Path(folder) / "b.h5"
        make(path)
        whole = path.read_bytes()
        damaged.write_bytes(whole)
        expected = [(*each,) for each in read(path)]
        found: Counter[str] = Counter()
        structure = [place for place in range(len(whole)) if place < 4096 or place > len(whole) - 60_000]
        for number in range(changes):
            place = chance.randrange(len(whole)) if number % 2 else chance.choice(structure)
            changed = bytearray(whole)
            changed[place] = chance.choice([changed[place] ^ 1 << chance.randrange(8), 0, 255, chance.randrange(256)])
            damaged.write_bytes(changed)
            result = outcome(damaged, expected)
            found[result] += 1
            if result not in ("equal data", "one line"):
                print(f"  byte {place}: {whole[place]} -> {changed[place]}: {result}")
    print(f"{changes:,} changes of one byte in a store of {len(whole):,}: {dict(found)}")


if __name__ == "__main__":
    main()
