"""The report of runs as one HTML page, and figures of their success. Everything is read from the run folders."""
