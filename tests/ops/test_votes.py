"""Votes of neighbors against loops, and which class wins a tie."""

import math

import numpy as np
import pytest
import torch

from embedscope.ops.neighbors import Neighbors
from embedscope.ops.votes import VOTES, winners


@pytest.mark.parametrize("vote", VOTES)
def test_winners_equal_loops(vote):
    generator = np.random.default_rng(0)
    index = generator.integers(0, 4, 50)
    found = Neighbors(
        torch.from_numpy(generator.integers(0, 50, (200, 7))), torch.from_numpy(np.sort(generator.random((200, 7)), axis=1))
    )
    weight = {"uniform": lambda d: 1, "distance": lambda d: 1 / d, "dino": lambda d: math.exp(-d / 0.2)}[vote]
    expected = []
    for indices, distances in zip(found.indices.tolist(), found.distances.tolist(), strict=True):
        votes = {}
        for row, distance in zip(indices, distances, strict=True):
            votes[index[row]] = votes.get(index[row], 0) + weight(distance)
        expected.append(max(votes, key=votes.get))  # of equal ones the first, that of the nearest
    assert winners(found, torch.from_numpy(index), 4, vote=vote, temperature=0.2).tolist() == expected


def test_a_tie_goes_to_the_nearest():
    found = Neighbors(torch.tensor([[2, 0, 1, 3]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64))
    assert winners(found, torch.tensor([0, 0, 3, 3]), 4).tolist() == [3]
