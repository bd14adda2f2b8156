"""Training a model of any family, and drawing from it."""
