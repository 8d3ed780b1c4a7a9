"""One framework does the work of a file: `python peer_work FRAMEWORK WORK.json OUT.json`.

peers.py starts this in the framework's own environment, which has no cutlayer (but for its own).
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    framework, work, out = sys.argv[1:]
    importlib.import_module(f"with_{framework}").main(Path(work), Path(out))
