"""`DataSync` and `AsyncDataSync`: keys and JSON values in an ordinary synced table, for Python apps."""
