"""A photograph from its JPEG file to 224 pixels: by Pillow, as `image_dls` reads it, and by torchvision's decoder and its `resize`

python benchmarks/decode.py
One thread; seconds are CPU time.
"""
import statistics, tempfile, time, warnings
warnings.filterwarnings('ignore')
import torch
from fastai.vision.all import Path
from fastcore.script import call_parse
from psm_fastai.images import ReadImage
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2.functional import center_crop, resize
from bench import in_turn, make_photos, ratio, save

def row(width, n, rounds):
    with tempfile.TemporaryDirectory() as tmp:
        make_photos(Path(tmp), n, width)
        files,read = [*Path(tmp).rglob('*.jpg')],ReadImage(224)
        def pillow():
            for f in files: read.pixels(f)
        def torchvision():
            for x in decode_jpeg([read_file(str(f)) for f in files], mode=ImageReadMode.RGB): center_crop(resize(x, [224], antialias=True), [224,224])
        t = in_turn(rounds, time.process_time, pillow=pillow, torchvision=torchvision)
    r = dict(width=width, ms={name: 1000*statistics.median(v)/n for name,v in t.items()}, torchvision_over_pillow=ratio(t['torchvision'], t['pillow']))
    print(f"{width} pixels wide: {r['ms']['pillow']:.1f} ms by Pillow, {r['ms']['torchvision']:.1f} ms by torchvision")
    return r

@call_parse
def main(
    rounds:int=5, # Measurements of each
):
    torch.set_num_threads(1)
    save('decode', [row(500, 128, rounds), row(4000, 8, rounds)])
