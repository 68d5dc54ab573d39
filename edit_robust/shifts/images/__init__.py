"""Shifts of images."""
