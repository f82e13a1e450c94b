"""Bisection by belief: which commit brought a crash that comes and goes, for the fewest runs and builds.

The engine knows nothing of kernels. It gets a commit graph, a callable that runs something at a revision
(`types.Runner`) and an executor to run it on, and gives an answer with a probability.
"""
