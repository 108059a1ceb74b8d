"""The GPU kernel, through Triton's interpreter on the CPU, and on a GPU where there is one."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from embedscope.metrics.silhouette import silhouette_samples
from embedscope.ops.class_distances import class_distances
from embedscope.ops.minima import MinimumForm
from tests.conftest import ROOT

OLDEST = "3.4"  # the first whose interpreter runs the kernel

INTERPRETED = """
import json, sys
import torch
from embedscope.ops._class_distances_triton import Tiling, fused_class_distances
from embedscope.ops.frames import surveyed
from embedscope.ops.fused import checked, fused
from embedscope.ops.class_moments import present_classes
from embedscope.ops.minima import MinimumForm

results = []
for case in json.loads(sys.stdin.read()):
    features, labels = torch.tensor(case["features"]), torch.tensor(case["labels"])
    classes, form = present_classes(labels), MinimumForm(case["form"], 0.3)
    tiling = Tiling(rows=32, columns=16, depth=16)
    frame = surveyed(features, classes, unit=case["unit"]).frame
    form = MinimumForm(form.form, form.tau * frame.scale)
    _, _, again = fused_class_distances(features, classes, frame, unit=case["unit"], form=form, tiling=tiling)
    own, found = fused(features, classes, frame, unit=case["unit"], form=form, tiling=tiling)
    others = len(classes) - 1
    values = [(own / frame.scale).tolist(), (found.result(others) / frame.scale).tolist(), found.nearest.tolist()]
    results.append([*values, int(again.sum())])
print(json.dumps([checked(torch.device("cpu"), tiling), *results]))
"""


COMPILED = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from embedscope.ops._class_distances_triton import Tiling, _kernel

tiling = Tiling()
constants = {"WIDTH": 2048, "SOFT": True, "ROWS": tiling.rows, "COLUMNS": tiling.columns, "DEPTH": tiling.depth,
             "PRECISION": tiling.precision}
integers, floats = {"classes_at", "first_at", "counts_at", "nearest_at", "near_at"}, {"rows_at", "norms_at"}
signature = {}
for name in _kernel.arg_names:
    if name in constants:
        signature[name] = "constexpr"
    elif name.endswith("_at"):
        signature[name] = "*i32" if name in integers else "*fp32" if name in floats else "*fp64"
    else:
        signature[name] = "fp32" if name in ("share", "tau") else "i32"
places = {(_kernel.arg_names.index(name),): value for name, value in constants.items()}
source = ASTSource(fn=_kernel, signature=signature, constexprs=places)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": tiling.warps})
ptx = compiled.asm["ptx"]
print(json.dumps([list(compiled.asm), ptx.count("wgmma.mma_async") + ptx.count("mma.sync"), compiled.metadata.shared]))
"""


def cases():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(7).repeat(8), torch.zeros(20, dtype=torch.int64), torch.tensor([7])])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    features = torch.randn(len(labels), 21, generator=generator) + torch.randn(8, 21, generator=generator)[labels] + 50
    twins = features.clone()
    twins[5], twins[40] = twins[6], twins[7]
    collapsed = torch.randn(8, 21, generator=generator)[labels]
    found = [(features, form, unit) for form in ("hard", "lse", "lme", "weighted") for unit in (False, True)]
    return [*found, (twins, "hard", False), (collapsed, "hard", False)], labels


@pytest.fixture(scope="module")
def interpreted():
    pytest.importorskip("triton", minversion=OLDEST)
    chosen, labels = cases()
    sent = [
        {"features": features.tolist(), "labels": labels.tolist(), "form": form, "unit": unit}
        for features, form, unit in chosen
    ]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        input=json.dumps(sent),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", range(10))
def test_kernel_equals_the_plain_path(interpreted, case):
    chosen, labels = cases()
    features, form, unit = chosen[case]
    own, other, nearest, _ = interpreted[1 + case]
    counts = torch.bincount(labels)
    expected = class_distances(features.double(), labels, normalize=unit, minimum=MinimumForm(form, 0.3))
    # Products of float32 rows, distances of order 10.
    np.testing.assert_allclose(np.array(own) / (counts[labels] - 1).clamp(min=1).numpy(), expected.own, atol=3e-6)
    np.testing.assert_allclose(other, expected.other, atol=3e-6)
    if case < 9:  # where classes collapse, ties may be broken otherwise
        assert nearest == expected.nearest.tolist()


def test_kernel_compiles_for_hopper():
    """Down to machine code, by Triton's own assembler: no GPU is needed for that, only for running it."""
    pytest.importorskip("triton", minversion=OLDEST)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    kinds, tensor_core_products, shared = json.loads(done.stdout)
    assert "cubin" in kinds
    assert tensor_core_products > 0
    assert shared <= 227 * 1024  # what a program may have on the chip


def test_kernel_passes_its_self_check(interpreted):
    assert interpreted[0]


def test_rows_with_near_neighbors_are_computed_again(interpreted):
    assert interpreted[1][3] == 0
    assert interpreted[9][3] == 4  # two pairs of twins
    assert interpreted[10][3] == 76  # every row but the only member of its class


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_gpu_equals_cpu(offset):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(30, (3000,), generator=generator)
    features = torch.randn(3000, 200, generator=generator) + torch.randn(30, 200, generator=generator)[labels] + offset
    features[:20] = features[20:40]
    exact = silhouette_samples(features.double(), labels)
    found = silhouette_samples(features.cuda(), labels.cuda()).cpu()
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)
