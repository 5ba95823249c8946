"""Redis as the log and the state: keys, formats, the atomic write, readers, catalogue and placement."""
