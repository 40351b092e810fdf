"""Snapshots: all rows at one position, made once, kept as files, fetched by devices chunk by chunk."""
