"""Models that can be edited: `language/` and `vision/`, behind the protocols of `base`."""
