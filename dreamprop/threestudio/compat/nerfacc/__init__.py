"""The CUDA kernels of nerfacc in plain torch."""
