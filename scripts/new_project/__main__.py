"""python -m scripts.new_project ../mine"""

import sys

from scripts.new_project import main
from utils.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
