import torch

torch.set_num_threads(1)  # small tensors: threads only cost, and one thread makes runs repeat bit for bit
