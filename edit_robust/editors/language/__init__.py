"""Editors of causal language models."""
