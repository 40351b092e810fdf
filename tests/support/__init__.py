"""What several suites share: a real broker, waiting with a deadline."""
