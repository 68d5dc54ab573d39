"""What to change and what to ask: one file a task; `worlds` holds the built-in data."""
