"""Shifts of text."""
