"""From ``func+0xoff/0xsize`` and addresses to source lines, and from code bytes to instructions."""
