"""The built-in scene world."""
