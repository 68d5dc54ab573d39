"""Every figure and table of both papers from one command: `edit-robust reproduce PAPER[/FIGURE]`.

`catalogue` knows what there is, `plan` which runs it takes, `making` makes them, `drawing` and `page` show them beside
the papers' own numbers (`published`, `compare`). `needs` and `scale_model` say what the papers' own grids would take.
"""
