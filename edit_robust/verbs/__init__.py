"""Verbs of the command line, one a file. They import nothing heavy until they are called.

`cli.py` registers each function under its own name. What several verbs share stands in `finding`.
"""
