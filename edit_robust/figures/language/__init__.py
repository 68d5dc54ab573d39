"""Figures of edited language models."""
