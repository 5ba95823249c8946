"""The encoder: embeddings and texts to codes, as a Ray Serve deployment behind gRPC."""
