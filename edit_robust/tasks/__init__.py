"""Sources of requests, and of what is asked about them: `language/`, `vision/`, and the built-in `worlds/`."""
