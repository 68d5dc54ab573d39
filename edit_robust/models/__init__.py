"""Networks as experiments see them: editable weights that answer questions."""
