"""Data sets of the literature, each read in the layout in which it is published."""
