"""What a run is worth: pure metrics on an accuracy matrix, and the file that a run leaves."""
