"""How stages run: their frame, workers, surroundings, the Prefect server, and what is told."""
