"""What a run or sweep will take: memory, disk and time."""
