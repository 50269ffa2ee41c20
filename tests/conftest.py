"""What all tests share."""

import torch

# the tensors of tests are small: threads would spend their time waiting for each other
torch.set_num_threads(1)
