"""What every process needs: settings, limits, errors, logging, metrics, lifecycle, vectors on the wire."""
