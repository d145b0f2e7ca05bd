"""Images as everyone here reads them: one decoder, with the same rules in training, in answers and on the page."""

from utils.images.decoding import DECODING_RULES, BitsUsed, ImageFinding, decode_rgb, inspect_image, read_rgb, visit_rgb

__all__ = ["DECODING_RULES", "BitsUsed", "ImageFinding", "decode_rgb", "inspect_image", "read_rgb", "visit_rgb"]
