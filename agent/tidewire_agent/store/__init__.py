"""Everything Tidewire does with the app's database file: synchronous, on one thread.

catalogue ─ which tables, and their triggers (capture)
seal      ─ change log and rows → batch (netchange, seeds) → outbox
apply     ─ entries of the log → rows (row_writer: pending, parked, dead_letters)
edge_store ─ all of it behind one class
"""
