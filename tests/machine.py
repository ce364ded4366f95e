"How tests compute: imported by all of their processes, so that those that are compared compute alike"
import torch
from fastai.torch_core import defaults

torch.set_num_threads(1)   # several workers on few cores would only wait for each other
defaults.use_cuda = None if torch.cuda.is_available() else False   # machines for macOS tests have a GPU, but no memory on it
if torch.cuda.is_available():   # many tests compare numbers closely
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
