"""Downstream tasks of language models: how they are asked, and where their examples come from."""
