"""Public data sets and backbones: fetched, embedded once, kept in the user's cache."""
