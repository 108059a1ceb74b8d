"""Pooling against loops, and the axes found in networks of several kinds."""

import numpy as np
import pytest
import torch
from torch import nn

from embedscope.errors import InputError, UsageError
from embedscope.extraction.running import Runner
from embedscope.models.encoder import Encoder
from embedscope.models.pooling import plan
from embedscope.models.preparation import Pixels
from embedscope.progress import silent


def looped(values, positions, pooling, mask=None):
    """Plain loops: values (B, positions, C), already with the channels last."""
    features, magnitudes = [], []
    for sample, row in enumerate(values):
        kept = [token for token in range(len(row)) if mask is None or mask[sample][token]]
        if pooling == "cls":
            features.append(row[kept[0]].tolist())
        elif pooling == "flatten":
            features.append([float(number) for token in row for number in token])
        else:
            features.append([sum(float(row[token][c]) for token in kept) / len(kept) for c in range(row.shape[1])])
        magnitudes.append([sum(abs(float(row[token][c])) for token in kept) / len(kept) for c in range(row.shape[1])])
    return np.array(features), np.array(magnitudes)


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls", "flatten"])
def test_tokens(pooling):
    values = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pool = plan("x", pooling, (5, 4), channels_last=True)
    features, magnitudes = pool(values)
    expected, expected_magnitudes = looped(values, 5, pooling)
    # The package pools in float32; a mean of five numbers is off by a few units in the last place.
    np.testing.assert_allclose(features, expected, atol=5e-7, rtol=0)
    if pooling == "cls":
        assert magnitudes is None
    else:
        np.testing.assert_allclose(magnitudes, expected_magnitudes, atol=5e-7, rtol=0)
    assert pool.name == {"auto": "mean"}.get(pooling, pooling)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_left_out(pooling, side):
    values = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]] if side == "right" else [[1, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    features, _ = plan("x", pooling, (4, 3), channels_last=True)(values, mask)
    np.testing.assert_allclose(features, looped(values, 4, pooling, mask)[0], atol=5e-7, rtol=0)


@pytest.mark.parametrize("pooling", ["auto", "gap", "mean"])
def test_maps(pooling):
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    pool = plan("x", pooling, (3, 4, 5), channels_last=False)
    features, magnitudes = pool(values)
    tokens = values.flatten(2).transpose(1, 2)
    for found, expected in zip((features, magnitudes), looped(tokens, 20, "gap"), strict=True):
        np.testing.assert_allclose(found, expected, atol=5e-7, rtol=0)
    assert pool.name == "gap"


def test_maps_with_the_channels_last():
    values = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(3))
    features, _ = plan("x", "auto", (4, 5, 3), channels_last=True)(values)
    np.testing.assert_allclose(features, looped(values.flatten(1, 2), 20, "gap")[0], atol=5e-7, rtol=0)


def test_result_shares_no_memory():
    values = torch.ones(2, 3)
    features, magnitudes = plan("x", "auto", (3,), channels_last=False)(values)
    values.zero_()
    assert (features == 1).all()
    assert magnitudes is None


@pytest.mark.parametrize(
    ("pooling", "shape", "message"),
    [
        ("none", (5, 4), "layer x gives .5, 4. per sample, which is not a vector; use gap, mean, cls or flatten"),
        ("cls", (3, 4, 5), "which have no class token"),
        ("mean", (4,), "there are no positions for 'mean'"),
        ("gab", (4,), "no pooling 'gab'; did you mean 'gap'"),
    ],
)
def test_pooling_that_the_shape_does_not_allow(pooling, shape, message):
    with pytest.raises(UsageError, match=message):
        plan("x", pooling, shape, channels_last=len(shape) == 2)


def test_empty_activations():
    with pytest.raises(InputError, match="which is empty"):
        plan("x", "auto", (0, 4), channels_last=True)


class Last(nn.Module):
    """A block like ConvNeXt's: maps with the channels last inside, first at its end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.linear = nn.Linear(6, 6)
        self.act = nn.ReLU()
        self.end = nn.Identity()

    def forward(self, x):
        inside = self.act(self.linear(self.conv(x).permute(0, 2, 3, 1)))
        return self.end(inside.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [(4, 4), (4, 7), (6, 4)])
def test_channels_are_found_on_either_side(size):
    encoder = Encoder(Last(), Pixels(), "last")
    with Runner(encoder, device="cpu", say=silent) as runner:
        names = ["conv", "linear", "act", "act.input", "end"]
        runner.plan(torch.randn(1, 3, *size), names, pooling="auto", logits=False, allow_partial=False)
        widths = {name: features.shape[1] for name, (features, _) in runner.captured.items()}
    if size == (6, 4):  # as many rows as channels at the end: what the module before them says has to do
        del widths["end"]
    assert set(widths.values()) == {6}


def test_channels_of_what_follows_a_one_dimensional_convolution():
    encoder = Encoder(nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.MaxPool1d(2)), Pixels(), "x")
    with Runner(encoder, device="cpu", say=silent) as runner:
        runner.plan(torch.randn(1, 2, 9), ["*"], pooling="auto", logits=False, allow_partial=False)
        assert [features.shape[1] for features, _ in runner.captured.values()] == [5, 5, 5]


def test_channels_of_a_recurrent_network():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(2, 9, 1), nn.LSTM(9, 5, batch_first=True)

        def forward(self, x):
            return self.lstm(self.conv(x).transpose(1, 2))[0]

    with Runner(Encoder(Recurrent(), Pixels(), "x"), device="cpu", say=silent) as runner:
        runner.plan(torch.randn(1, 2, 9), ["lstm"], pooling="auto", logits=False, allow_partial=False)
        assert runner.widths == {"lstm": 5}


def test_who_names_a_pooling_says_what_the_axes_are():
    encoder = Encoder(nn.Identity(), Pixels(), "x")
    with Runner(encoder, device="cpu", say=silent) as runner:
        for pooling, width in (("gap", 4), ("mean", 6), ("cls", 6)):
            runner.plan(torch.randn(1, 4, 6), ["output"], pooling=pooling, logits=False, allow_partial=False)
            assert runner.widths == {"output": width}
