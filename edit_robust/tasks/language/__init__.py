"""Tasks in words."""
