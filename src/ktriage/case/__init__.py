"""Keeps and renders what was found about one bug."""
