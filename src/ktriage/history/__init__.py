"""A git repository as a graph of commits in arrays, and its commits as worktrees, patches and people."""
