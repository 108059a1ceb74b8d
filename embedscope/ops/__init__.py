"""Mathematics on tensors, without opinion: what metrics and losses share."""
