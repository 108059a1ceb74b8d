"""Augmentation: the same as by hand, and of each row by itself."""

import numpy as np
import pytest
import torch

from embedscope.errors import InputError
from embedscope.finetuning.augmenting import Augmentation

IMAGES = torch.arange(40 * 2 * 6 * 6, dtype=torch.float32).reshape(40, 2, 6, 6) + 1  # no two pixels are alike, and none is 0
ROWS = torch.arange(40)


def test_a_crop_is_a_part_of_the_padded_image():
    found = Augmentation("crop(6, pad=2)", 40, 0)(IMAGES, ROWS, 1)
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = []
    for row in range(40):
        parts = {(top, left): padded[row, :, top : top + 6, left : left + 6] for top in range(5) for left in range(5)}
        places += [place for place, part in parts.items() if np.array_equal(part, found[row].numpy())]
    assert len(places) == 40
    assert {top for top, _ in places} == {left for _, left in places} == set(range(5))


def test_crops_may_be_smaller_and_not_larger():
    assert Augmentation("crop(4)", 40, 0)(IMAGES, ROWS, 1).shape == (40, 2, 4, 4)
    with pytest.raises(InputError, match="a crop of 9 is larger than the images, 6 x 6 with a pad of 1"):
        Augmentation("crop(9, pad=1)", 40, 0)(IMAGES, ROWS, 1)


@pytest.mark.parametrize(("spec", "axis"), [("flip", 3), ("vflip", 2)])
def test_flips_are_of_about_half_of_the_rows(spec, axis):
    found = Augmentation(spec, 40, 0)(IMAGES, ROWS, 1)
    turned = [torch.equal(found[row], IMAGES.flip(axis)[row]) for row in range(40)]
    left = [torch.equal(found[row], IMAGES[row]) for row in range(40)]
    assert [one != other for one, other in zip(turned, left, strict=True)] == [True] * 40
    assert 8 <= sum(turned) <= 32


@pytest.mark.parametrize(("probability", "pixels"), [(1, 9), (0, 0)])
def test_a_square_of_the_share_is_erased(probability, pixels):
    found = Augmentation(f"erase(p={probability}, share=0.25)", 40, 0)(IMAGES, ROWS, 1)
    assert ((found == 0).sum(dim=(2, 3)) == pixels).all()
    assert torch.equal(found[found != 0], IMAGES[found != 0])


def test_a_row_changes_alike_in_any_batch_and_otherwise_in_each_epoch():
    changes = Augmentation("crop(6, pad=2) + flip + erase(p=1)", 40, 3)
    whole, later = changes(IMAGES, ROWS, 1), changes(IMAGES, ROWS, 2)
    some = torch.tensor([31, 4, 17])
    assert torch.equal(Augmentation("crop(6, pad=2) + flip + erase(p=1)", 40, 3)(IMAGES[some], some, 1), whole[some])
    assert not torch.equal(whole, later)
    assert not torch.equal(whole, Augmentation("crop(6, pad=2) + flip + erase(p=1)", 40, 4)(IMAGES, ROWS, 1))


def test_only_images_are_changed():
    with pytest.raises(InputError, match=r"augmentation needs images \(B, C, H, W\), but the inputs are of shape \(40, 3\)"):
        Augmentation("flip", 40, 0)(torch.zeros(40, 3), ROWS, 1)
