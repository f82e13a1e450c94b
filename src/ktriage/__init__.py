"""ktriage: from a Linux kernel crash to a name."""

__version__ = "0.1.0"
