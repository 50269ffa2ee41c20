"""tiny-cuda-nn's Python interface in plain torch."""
