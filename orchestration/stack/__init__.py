"""The local stack: the whole system as processes on one machine, for demos, development and tests."""
