"""Editors of image classifiers."""
