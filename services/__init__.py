"""The processes of the system: encoder, index servers, router, and the client."""
