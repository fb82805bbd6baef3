"""Many runs: scheduling, folders, searches, stopping rules and launchers."""
