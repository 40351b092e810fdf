"""The wire contract of Tidewire: messages, positions, topics, values, errors. Pure: no I/O, no clock, no randomness."""
