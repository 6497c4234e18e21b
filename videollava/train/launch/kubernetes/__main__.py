"""`python -m videollava.train.launch.kubernetes FOLDER`: the process that a launcher supervises."""

import sys
from pathlib import Path

from videollava.train.launch.kubernetes.job import main

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
