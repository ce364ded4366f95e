"""Images a second of one core, two views each: decoded once into memory or into a cache, decoded in each epoch by fastai, and lightly's transforms in a torch DataLoader

pip install -r benchmarks/requirements.txt && python benchmarks/loader.py
python benchmarks/loader.py --size 32 --width 32 --n 4096 --blur 0       small images

Everything runs in one process with one thread, so CPU time is what a core needs, also on a busy machine.
"""
import statistics, tempfile, time, warnings
warnings.filterwarnings('ignore')
import torch
from fastai.vision.all import Path
from fastcore.script import call_parse
from lightly.transforms import MoCoV2Transform
from psm_fastai.data import image_dls
from psm_fastai.pretrain import keep_memory
from psm_fastai.views import photo_views
from torchvision.datasets import ImageFolder
from bench import in_turn, make_photos, ratio, save

@call_parse
def main(
    n:int=512, # Images
    width:int=500, # Of the files
    size:int=224, # Height and width of images and views
    bs:int=64, # Batch size
    blur:float=.5, # Share of blurred views; 0: none
    rounds:int=5, # Measurements of each
):
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as tmp:
        photos,cache = Path(tmp)/'photos',Path(tmp)/'cache'
        make_photos(photos, n, width)
        views = photo_views(blur=blur)
        def loader(**kwargs): return image_dls(photos, bs=bs, size=size, valid_pct=0, num_workers=0, device='cpu', **kwargs)
        def epoch(dls):
            v = views.setup(dls)
            def f():
                for x,*_ in dls.train: v(x)
            return f
        ours = dict(in_memory=loader(), cache=loader(cache=cache), decoded=loader(in_memory=False, verify=False))
        transform = MoCoV2Transform(input_size=size, gaussian_blur=blur)
        peer = torch.utils.data.DataLoader(ImageFolder(photos, transform=transform), batch_size=bs, shuffle=True, drop_last=True)
        def lightly():
            for _ in peer: pass
        t = in_turn(rounds, time.process_time, **{name: epoch(dls) for name,dls in ours.items()}, lightly=lightly)
    images = bs*len(peer)
    speed = {name: images/statistics.median(v) for name,v in t.items()}
    over = {name: ratio(t['lightly'], t[name]) for name in ours}
    for name,v in speed.items(): print(f"{name:<10} {v:7.0f} images/s, two views each" + (f"; {over[name]['ratio']:.1f} ({over[name]['low']:.1f} to {over[name]['high']:.1f}) times lightly's" if name in over else ''))
    save('loader', [dict(n=n, width=width, size=size, bs=bs, blur=blur, images_per_second=speed, over_lightly=over)], sizes=('size',))
