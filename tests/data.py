"The data sets that tests make for themselves: files of noise or of digits, and images without files"
import struct, zlib
from pathlib import Path
import numpy as np, tifffile, torch
from PIL import Image
from fastai.vision.all import DataLoaders, SkipItemException, TensorImage, TfmdDL, noop
from psm_fastai.data import digits_dls, image_dls

# files

rng = np.random.default_rng(0)
def pixels(*shape, hi=256, dtype=np.uint8): return rng.integers(0, hi, shape).astype(dtype)

def png(f, a): Image.fromarray(a).save(f)
def tif(**kwargs): return lambda f,a: tifffile.imwrite(f, a, **kwargs)

def png16(f, a, extra=()):
    "Write `[H, W, C]` of 16 bits, which PIL can't"
    h,w,c = a.shape
    def chunk(t, d): return struct.pack('>I', len(d))+t+d+struct.pack('>I', zlib.crc32(t+d))
    head = struct.pack('>IIBBBBB', w, h, 16, {1:0,2:4,3:2,4:6}[c], 0, 0, 0)
    rows = b''.join(b'\0'+r.astype('>u2').tobytes() for r in a)
    chunks = [(b'IHDR',head), *extra, (b'IDAT',zlib.compress(rows)), (b'IEND',b'')]
    Path(f).write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*o) for o in chunks))

def save_all(path, arrays, name='{}.png', write=png):
    "A file an array. Their names"
    files = [path/name.format(i) for i in range(len(arrays))]
    for f,a in zip(files, arrays): write(f, a)
    return files

def noise_files(path, sizes, names=None):
    "A file of noise a size `(width, height)`. The folder"
    for i,(w,h) in enumerate(sizes):
        f = path/(names[i] if names else f'{i}.png')
        f.parent.mkdir(parents=True, exist_ok=True)
        png(f, pixels(h, w, 3))
    return path

def put(root, *names):
    "Files of noise below `root`: 'cat/3' are cat/0.png to cat/2.png"
    for name in names:
        folder,_,n = name.rpartition('/')
        noise_files(root/folder, [(8,8)]*int(n))

def digit_files(path, n, name=lambda i,y: f'{i}.png'):
    "Files of `n` digits, each named by its place and its label. The folder"
    for i,(im,y) in enumerate(digits_dls(limit=n).train_ds):
        f = path/name(i, int(y))
        f.parent.mkdir(parents=True, exist_ok=True)
        im.save(f)
    return path

def by_label(i, y): return f'{y}/{i}.png'

def small_dls(source, **kwargs): return image_dls(source, **{**dict(size=8, bs=4, device='cpu'), **kwargs})
def item(dls, i=0): return np.asarray(dls.train_ds[i][0])

# images without files

def loaders(train, valid=None, bs=16, drop_last=True, **kwargs):
    "Loaders of any items: shuffled for training; in order, and of the same items if there are no others, for validation"
    return DataLoaders(TfmdDL(train, bs=bs, shuffle=True, drop_last=drop_last, num_workers=0, **kwargs),
                       TfmdDL(train if valid is None else valid, bs=bs, num_workers=0, **kwargs))

class Images:
    "`n` images of noise, of any shape and type, with labels or without; each time the same"
    def __init__(self, n, shape=(1,16,16), dtype=torch.float32, label=None, change=noop, seed=0):
        self.n,self.shape,self.dtype,self.label,self.change,self.seed = n,shape,dtype,label,change,seed
    def __len__(self): return self.n
    def __getitem__(self, i):
        x = torch.rand(*self.shape, generator=torch.Generator().manual_seed(1000*self.seed+i))
        x = self.change(TensorImage((x*255).to(torch.uint8) if self.dtype==torch.uint8 else x.to(self.dtype)))
        return (x,) if self.label is None else (x,self.label(i))

class Told:
    "Images whose pixels and labels tell their places; one may be skipped, and with another `shift` all are other images"
    def __init__(self, n, shift=0, skip=None): self.n,self.shift,self.skip = n,shift,skip
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i==self.skip: raise SkipItemException
        return TensorImage(torch.full((1,16,16), (i+self.shift)/(self.n+self.shift))),(i+self.shift)%7

def places(x, n):
    "Of the images of a batch, which `Told(n)` gave"
    return (x.amin((1,2,3))*n).round().long().as_subclass(torch.Tensor).cpu()

class Uneven:
    "Images of three classes, of which the first has two thirds of the images and the last a tenth; one in nine has no label"
    def __init__(self, n):
        g = torch.Generator().manual_seed(n)
        self.y = (torch.rand(n, generator=g)[:,None] > torch.tensor([.67,.9])).sum(1)
        self.x = .3*torch.rand(n, 1, 16, 16, generator=g)
        for x,y in zip(self.x, self.y): x[0,4*y:4*y+5] += .5
        self.y[::9] = -1
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return TensorImage(self.x[i]),self.y[i]
