"""Reads a vmcore: modules, their reference counts, the kernel's own log."""
