"""Reading and repairing LeRobot datasets."""
