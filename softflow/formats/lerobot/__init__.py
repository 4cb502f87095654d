"""Reading, writing and repairing LeRobot datasets."""
