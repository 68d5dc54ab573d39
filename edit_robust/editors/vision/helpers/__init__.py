"""What several image editors share: pairs, training, optimisation side by side, second moments."""
