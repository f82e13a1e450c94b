"""The case store in a browser, and as REST: one process, no build step, pages that need no script."""
