"""Reading Minari datasets."""
