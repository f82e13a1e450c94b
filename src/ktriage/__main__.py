"""``python -m ktriage``."""

from ktriage.cli import main

raise SystemExit(main())
