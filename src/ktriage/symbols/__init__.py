"""From ``func+0xoff/0xsize`` and addresses to source lines, and from code bytes to instructions.

``symbolize.symbolize_crash`` fills in a crash, ``report.annotated_text`` writes the lines into its text,
``code.read_code`` reads its code bytes. Nothing is imported here: drgn takes 100 ms to load.
"""
