"""What several language editors share: contexts, value optimisation, second moments."""
