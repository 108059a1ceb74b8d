"""The version, in a file of its own so that no module imports upwards for it."""

__version__ = "0.1.0"
