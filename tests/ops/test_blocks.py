import pytest
import torch

from embedscope.metrics.soft_silhouette import soft_silhouette
from embedscope.ops.blocks import limits, over_rows, row_slices


@pytest.mark.parametrize(("rows", "row_bytes", "limit"), [(10, 1, 3), (10, 100, 1), (0, 8, 8), (7, 1, 100)])
def test_slices_cover_the_rows_once(rows, row_bytes, limit):
    slices = list(row_slices(rows, row_bytes, limit))
    assert [row for block in slices for row in range(rows)[block]] == list(range(rows))
    assert all(block.stop - block.start <= max(1, limit // row_bytes) for block in slices)


def test_over_rows_reads_slices_only():
    class Lazy:
        shape, dtype = (5, 2), torch.float16

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return torch.arange(10, dtype=torch.float16).reshape(5, 2)[rows]

    blocks = [block for _, block in over_rows(Lazy(), torch.float64)]
    assert torch.equal(torch.cat(blocks), torch.arange(10, dtype=torch.float64).reshape(5, 2))


def test_all_pairs_that_take_long_are_announced_with_a_way_out(monkeypatch):
    features, labels = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    said = []
    with limits(memory=2**30, say=said.append):
        soft_silhouette(features, labels)
    assert said == []
    monkeypatch.setattr("embedscope.ops.pass_costs._WORTH_TIMING", 0)
    monkeypatch.setattr("embedscope.ops.pass_costs._speed", lambda *_: 10.0)  # 60 * 60 * 44 / 2 / 10 = 7920 s
    with limits(memory=2**30, say=said.append):
        soft_silhouette(features, labels)
    (text,) = said
    assert text.startswith("distances of 60 rows to 60 take about 2 hours; `sample=5000` measures 5,000 rows")
