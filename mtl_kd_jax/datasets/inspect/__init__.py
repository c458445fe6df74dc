"""What a data set holds, and what looks wrong with it."""
