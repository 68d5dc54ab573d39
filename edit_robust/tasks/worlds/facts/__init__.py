"""The built-in fact world."""
