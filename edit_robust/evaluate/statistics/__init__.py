"""Pure functions of scores and records. No model, no files."""
