"""Sets environment variables that OpenCV, TensorFlow and Keras read when they are imported."""

import os

# OpenCV is silent, because our own message names a file that does not decode.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
# A picture that unpacks to more pixels than a 64-megapixel camera's is refused, not decoded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
# TensorFlow prints errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The training steps are TensorFlow's, whatever ~/.keras/keras.json says.
os.environ["KERAS_BACKEND"] = "tensorflow"
