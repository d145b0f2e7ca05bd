"""python -m scripts.new_project ../mine"""

from scripts.new_project import main
from utils.errors import run_and_exit

if __name__ == "__main__":
    run_and_exit(main)
