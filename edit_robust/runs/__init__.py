"""A run's folder: written by `folder` and `ledger`, read by `reader`."""
