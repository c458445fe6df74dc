"""What a network predicts for pictures of any size, and how it is kept.

pictures.py   reads a picture, from a path, Pillow or NumPy
sizing.py     the size at which a network sees it; tiles
outputs.py    what a network gives, in the form of the labels
predictor.py  pictures -> predictions, in batches of one compiled program
front.py      `predict` of a network, and `Predictions` of several pictures
result.py     `Prediction`, what is predicted for one picture
write.py      its files
inputs.py     which files a job is to predict, and what their predictions are
              called
batch.py      predicts them
folder.py     whose a folder of predictions is, and what in it is complete
video.py      frames of videos
"""

from mtl_kd_jax.prediction.front import Predictions, PredictsPictures
from mtl_kd_jax.prediction.predictor import Predictor
from mtl_kd_jax.prediction.result import Prediction

__all__ = ['Prediction', 'Predictions', 'Predictor', 'PredictsPictures']
