"""What is measured at the points of a walk: one measure a file; pure functions of scores in `statistics/`."""
