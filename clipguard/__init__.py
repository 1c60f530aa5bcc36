"""clipguard: may this CLIP checkpoint be released?"""

__version__ = "0.1.0"
