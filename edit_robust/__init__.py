"""Edit a neural network and measure what the edit broke."""
