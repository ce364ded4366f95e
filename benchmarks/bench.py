"What the benchmarks share: things measured in turn, ratios with their spread, and a JSON file with the circumstances"
import json, os, platform, statistics, sys, time
from pathlib import Path
import numpy as np, torch
from PIL import Image
from fastai.vision.all import ProgressCallback, TensorCategory, TensorImage, noop
from psm_fastai.experiment import git_commit
from psm_fastai.report import environment
from sklearn.datasets import load_sample_images

here = Path(__file__).parent

def sync(device='cpu'):
    if torch.device(device).type=='cuda': torch.cuda.synchronize()

class Pictures:
    "Random images, with labels where `labels`"
    def __init__(self, n, size=32, labels=False): self.x,self.labels = torch.randint(0, 256, (n,3,size,size), dtype=torch.uint8),labels
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return (TensorImage(self.x[i]), *[TensorCategory(i%10)]*self.labels)

def make_photos(path, n, width):
    "JPEG files, three quarters as high as wide: parts of two photographs, in ten folders"
    rng,photos = np.random.default_rng(0),[Image.fromarray(a) for a in load_sample_images().images]
    for i in range(n):
        im = photos[rng.integers(2)]
        w = int(im.width*rng.uniform(.3, .85))
        h = w*3//4
        x,y = rng.integers(im.width-w+1),rng.integers(im.height-h+1)
        im = im.crop((x,y,x+w,y+h)).resize((width,width*3//4), Image.BICUBIC)
        (path/str(i%10)).mkdir(parents=True, exist_ok=True)
        im.save(path/str(i%10)/f'{i}.jpg', quality=92)

def silent(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def in_turn(
    rounds, # How often each is measured, after one round that doesn't count
    clock=time.perf_counter, # Where seconds come from
    **fs, # Name to a function without arguments
)->dict: # Name to its seconds, a list
    "Measure functions one after the other, round after round, so that a busy machine is busy for all of them"
    res = {n: [] for n in fs}
    for i in range(rounds+1):
        for n,f in fs.items():
            start = clock()
            f()
            if i: res[n].append(clock()-start)
    return res

def ratio(a, b):
    "Median of the ratios of two lists of seconds, measured in turn, and the range that holds the middle half of them"
    r = [x/y for x,y in zip(a, b)]
    lo,_,hi = statistics.quantiles(r, n=4)
    return dict(ratio=statistics.median(r), low=lo, high=hi)

def save(name, rows, sizes=()):
    "Write the rows, each with versions, hardware, commit and command, to NAME.json beside the program; rows of other sizes, by these columns, stay there"
    out = here/f'{name}.json'
    how = dict(command=' '.join([f'benchmarks/{name}.py', *sys.argv[1:]]), commit=git_commit(here), date=time.strftime('%Y-%m-%d'), processor=platform.processor() or platform.machine(), load=os.getloadavg()[0] if hasattr(os, 'getloadavg') else None, **environment())
    def size(r): return [r.get(c) for c in sizes]
    kept = [r for r in json.loads(out.read_text())['rows'] if size(r) not in [size(n) for n in rows]] if sizes and out.exists() else []
    out.write_text(json.dumps(dict(rows=kept+[dict(r, how=how) for r in rows]), indent=1)+'\n')
    print(f'\nwritten to {out.relative_to(here.parent)}')
