"""What is done to pictures once, before their transforms: background removal, face and region crops.

The classes that a config may name are listed here; `preparation.Preparation` applies a list of them.
"""

from data_loader.preparation.background import BackgroundRemoval
from data_loader.preparation.faces import FaceCrop, RegionCrop

__all__ = ["BackgroundRemoval", "FaceCrop", "RegionCrop"]
