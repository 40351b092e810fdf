"""The durable log of a stream: a port and its backends."""
