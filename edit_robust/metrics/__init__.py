"""Pure functions of scores. No model, no files."""
