"""Figures of edited image classifiers."""
