"""The built-in worlds: generated data that needs no download."""
