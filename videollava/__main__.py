"""`python -m videollava` is the command line."""

from videollava.cli import main

raise SystemExit(main())
