"""The public API: validates, encodes, writes to the store, fans searches out to index servers and merges."""
