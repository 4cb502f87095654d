"""The dataset formats of other projects: readers, and a writer of LeRobot's."""
