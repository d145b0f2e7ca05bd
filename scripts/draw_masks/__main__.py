"""python -m scripts.draw_masks TABLE OUT"""

from scripts.draw_masks import main
from utils.errors import run_and_exit

if __name__ == "__main__":
    run_and_exit(main)
