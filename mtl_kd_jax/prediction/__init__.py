"""What a network predicts for pictures of any size, and how it is kept.

pictures.py   reads a picture, from a path, Pillow or NumPy
sizing.py     the size at which a network sees it; tiles
outputs.py    what a network gives, in the form of the labels
predictor.py  pictures -> predictions, in batches of one compiled program
result.py     `Prediction`, what is predicted for one picture
"""

from mtl_kd_jax.prediction.predictor import Predictions, Predictor
from mtl_kd_jax.prediction.result import Prediction

__all__ = ['Prediction', 'Predictions', 'Predictor']
