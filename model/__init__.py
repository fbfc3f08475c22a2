"""The methods and their networks."""

import utils  # noqa: F401 - it chooses Keras' backend, before Keras is imported

import keras  # isort: skip

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Keras runs on {keras.backend.backend()} here, but these models need TensorFlow; import "
        "them before keras, or set KERAS_BACKEND=tensorflow"
    )
