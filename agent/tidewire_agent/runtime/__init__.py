"""The agent as a running program: it owns the link, the database's thread, timers and files, and performs effects."""
