"""The state of a stream: the fold of its log, kept in one SQLite file that can be deleted and made anew."""
