"""Tensor mathematics shared by metrics and losses."""
