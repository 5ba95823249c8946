"""Index servers: exact search in RAM over documents that Redis holds."""
