"""twistd of a checkout: knows the C{pullcache} command without anything of this project being installed."""

import sys
from pathlib import Path

import twisted.plugins
from twisted.scripts.twistd import run

# First, so that the command is the checkout's even where another version is installed.
twisted.plugins.__path__.insert(0, str(Path(__file__).resolve().parent / "plugins"))

if __name__ == "__main__":
    sys.exit(run())
