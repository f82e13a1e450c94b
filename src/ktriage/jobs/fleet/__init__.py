"""Work that is done by the workers of a Dask cluster, which share nothing with whoever asks for it."""
