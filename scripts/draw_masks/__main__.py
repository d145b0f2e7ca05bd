"""python -m scripts.draw_masks TABLE OUT"""

import sys

from scripts.draw_masks import main
from utils.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
