"""Images a second, two views each: a folder decoded once into memory, fastai's own loading of the same folder, and lightly's transforms in a torch DataLoader

pip install -r benchmarks/requirements.txt && python benchmarks/loader.py
"""
import statistics, tempfile, warnings
warnings.filterwarnings('ignore')
import numpy as np, torch
from PIL import Image
from fastai.vision.all import Path
from fastcore.script import call_parse
from lightly.transforms import MoCoV2Transform
from psm_fastai.data import image_dls
from psm_fastai.views import photo_views
from torchvision.datasets import ImageFolder
from bench import in_turn, ratio, save

def make_images(path, n, size):
    "JPEG files of smooth random colours, in ten folders"
    rng = np.random.default_rng(0)
    for i in range(n):
        (path/str(i%10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6,6,3), dtype=np.uint8)).resize((size,size), Image.BICUBIC).save(path/str(i%10)/f'{i}.jpg')

@call_parse
def main(
    n:int=4096, # Images
    size:int=32, # Height and width
    bs:int=256, # Batch size
    workers:int=2, # Of fastai's and torch's loaders; in memory there are none
    rounds:int=5, # Measurements of each
):
    with tempfile.TemporaryDirectory() as tmp:
        make_images(Path(tmp), n, size)
        views = photo_views()
        def epoch(dls):
            v = views.setup(dls)
            def f():
                for x,*_ in dls.train: v(x)
            return f
        memory,disk = (image_dls(tmp, bs=bs, size=size, valid_pct=.01, in_memory=m, num_workers=0 if m else workers) for m in (True,False))
        memory.train.one_batch()          # decodes, once
        peer = torch.utils.data.DataLoader(ImageFolder(tmp, transform=MoCoV2Transform(input_size=size)), batch_size=bs, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True)
        def lightly():
            for _ in peer: pass
        t = in_turn(rounds, in_memory=epoch(memory), fastai=epoch(disk), lightly=lightly)
    images = {name: bs*len(o) for name,o in dict(in_memory=memory.train, fastai=disk.train, lightly=peer).items()}
    each = {name: [s/images[name] for s in v] for name,v in t.items()}
    speed = {name: 1/statistics.median(v) for name,v in each.items()}
    over = {name: ratio(each[name], each['in_memory']) for name in ('fastai','lightly')}
    for name,v in speed.items(): print(f"{name:<10} {v:7.0f} images/s, two views each" + (f"; in memory {over[name]['ratio']:.1f} ({over[name]['low']:.1f} to {over[name]['high']:.1f}) times that" if name in over else ''))
    save('loader', [dict(n=n, size=size, bs=bs, workers=workers, images_per_second=speed, in_memory_over=over)])
