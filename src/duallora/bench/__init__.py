"""A grid of runs, methods by class orders by seeds, and what follows from its result files."""
