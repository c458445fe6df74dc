"""What is made of the numbers that a run wrote."""
