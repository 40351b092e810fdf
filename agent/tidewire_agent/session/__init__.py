"""What to do next, decided by plain objects: inputs and the time in, effects out. No I/O, no clock, no randomness."""
