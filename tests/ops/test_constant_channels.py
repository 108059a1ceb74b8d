"""Channels with one value, against numpy's peak-to-peak."""

import numpy as np
import torch

from embedscope.ops.blocks import limits
from embedscope.ops.constant_channels import constant_channels


def test_constant_channels_equal_numpy():
    x = np.random.default_rng(0).integers(0, 2, (7, 300)).astype(np.float16)
    expected = np.flatnonzero(np.ptp(x, axis=0) == 0).tolist()
    assert 0 < len(expected) < 300
    assert constant_channels(torch.from_numpy(x)).tolist() == expected
    with limits(memory=2**12):
        assert constant_channels(torch.from_numpy(x)).tolist() == expected
