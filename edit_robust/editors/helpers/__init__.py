"""What editors of language and of vision models share."""
