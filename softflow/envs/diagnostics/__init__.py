"""Small tasks, each of which one fault of a method fails."""
