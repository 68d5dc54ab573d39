"""One file a method. An editor takes a model and requests, and returns a Delta; the model is left as found."""
