"""The asyncio client. Every method is one call of the router, or a few; see services.client for a tour."""

from services.client.asynchronous.collections import CollectionCalls
from services.client.asynchronous.reads import ReadCalls
from services.client.asynchronous.writes import WriteCalls

__all__ = ["AsyncClient"]


class AsyncClient(CollectionCalls, WriteCalls, ReadCalls):
    """A connection to a router, for one event loop. Use it as a context manager, or close it.

    Calls raise the errors of services.runtime.errors. Reads, and writes under their write id, are repeated while the
    deployment is UNAVAILABLE or overloaded (after the delay that it asks for), until the time is up.
    """
