"""Tables, figures and summaries of what a run evaluated and logged."""
