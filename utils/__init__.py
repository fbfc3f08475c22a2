"""Sets environment variables that OpenCV, TensorFlow and Keras read when they are imported."""

import os

# What does not decode is named by us, once.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
# A picture that unpacks to more pixels than a 64-megapixel camera's is refused, not decoded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
# TensorFlow tells its errors alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Whatever ~/.keras/keras.json says: the training steps are TensorFlow's.
os.environ["KERAS_BACKEND"] = "tensorflow"
